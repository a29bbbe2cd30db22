"""Only a dead process loses its lock."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mergeopt.errors import InputError
from mergeopt.study.lock import StudyLock


def test_a_living_owner_is_named(tmp_path: Path) -> None:
    lock = StudyLock(tmp_path / "lock")
    with pytest.raises(InputError, match=f"process {os.getpid()} on .* is writing"):
        StudyLock(tmp_path / "lock")
    lock.release()
    StudyLock(tmp_path / "lock").release()


@pytest.mark.parametrize(
    ("change", "taken"),
    [({"started": 1}, True), ({"pid": 2**22 - 1}, True), ({}, False), ({"host": "elsewhere"}, False)],
)
def test_who_counts_as_alive(tmp_path: Path, change: dict[str, object], taken: bool) -> None:
    path = tmp_path / "lock"
    lock = StudyLock(path)
    owner = json.loads(path.read_text())
    path.write_text(json.dumps({**owner, **change}))
    if taken:
        StudyLock(path).release()
    else:
        with pytest.raises(InputError, match="is writing this study"):
            StudyLock(path)
    lock.release()


def test_a_dead_process_loses_it_and_a_torn_file_is_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = f"from mergeopt.study.lock import StudyLock; from pathlib import Path; StudyLock(Path({str(path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert json.loads(path.read_text())["pid"] != os.getpid()
    StudyLock(path)
    path.write_text('{"host": "a", "pi')
    StudyLock(path).release()
    assert path.read_text() == ""


def test_only_the_owner_releases(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = StudyLock(path)
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1}))
    lock.release()
    assert "elsewhere" in path.read_text()
