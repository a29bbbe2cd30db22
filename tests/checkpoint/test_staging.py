import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mergeopt.checkpoint.staging import Staging
from mergeopt.errors import MergeoptError

KILLED = """
import os, signal, sys
from pathlib import Path
from mergeopt.checkpoint.staging import Staging
Staging(Path(sys.argv[1]), 10).create("a", 10, b"head")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    first, second = Staging(tmp_path, 1), Staging(tmp_path, 1)
    assert first.path.is_dir() and second.path.is_dir()
    first.discard()
    second.discard()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert dead.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()

    staging = Staging(tmp_path, 1)

    assert not left.exists()
    staging.discard()


def test_files_appear_in_the_order_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    rename = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append(to.name), rename(self, to))[1])
    (tmp_path / "old.txt").touch()
    staging = Staging(tmp_path, 1)
    for name in ("one", "two"):
        os.fstat(staging.create(name, 4, name.encode()))
    staging.publish(["two", "one"], replaces=("*.txt",))
    assert order == ["two", "one"]
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    assert (tmp_path / "one").read_bytes() == b"one\0"


def test_a_fault_on_closing_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = Staging(tmp_path / "out", 1)
    files = {staging.create(name, 4, b"new") for name in ("one", "two")}
    close, closed = os.close, set()

    def full(handle: int) -> None:  # network file systems write late
        close(handle)
        if handle in files - closed:
            closed.add(handle)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "close", full)
    with pytest.raises(MergeoptError, match="No space left"):
        staging.publish(["one", "two"], replaces=())
    assert closed == files
    staging.discard()
    assert list(tmp_path.iterdir()) == []
