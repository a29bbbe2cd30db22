"""A search that is killed or interrupted goes on as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.study.family import recipe, search_data, write_yaml
from tests.study.test_search import history, result_data, search

DATA = search_data(recipe(method="ties", parameters={"density": 0.5}), method="cmaes", trials=40, batch=8)


def start(folder: Path, out: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "datasets")}
    command = [sys.executable, "-m", "mergeopt", "search", str(folder / "s.yml"), str(out), "--device", "cpu"]
    return subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored where the tests run in the background
    )


def wait_for(
    process: "subprocess.Popen[str]", out: Path, event: str, count: int, *, also: Callable[[], bool] = lambda: True
) -> None:
    """Until the log has so many of an event."""
    log, end = out / "search" / "log.jsonl", time.monotonic() + 120
    while not log.exists() or log.read_text().count(event) < count or not also():
        assert process.poll() is None and time.monotonic() < end, process.stderr and process.stderr.read()
        time.sleep(0.005)


@pytest.mark.slow
def test_kill_minus_nine_and_resume_is_the_uninterrupted_study(work: Path, tmp_path: Path) -> None:
    whole = search(DATA, tmp_path / "whole")
    folder = tmp_path / "cut"
    folder.mkdir()
    write_yaml(folder / "s.yml", DATA)
    with start(folder, folder / "out") as process:
        wait_for(process, folder / "out", '"event":"start"', 13)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    files = sorted(p.name for p in (folder / "out").rglob("*") if p.is_file() and "journal.log.lock" not in p.name)
    assert files == ["journal.log", "lock", "log.jsonl"]  # no half model
    for name, torn in (("log.jsonl", '{"event":"items","num'), ("journal.log", '{"op_code": 4, "trial')):
        with (folder / "out" / "search" / name).open("a") as file:
            file.write(torn)
    resumed = search(DATA, folder, resume=True, write=True)
    assert history(resumed) == history(whole)
    assert result_data(resumed) == result_data(whole)
    assert (folder / "out" / "config.json").exists()


@pytest.mark.slow
def test_control_c_ends_with_130_and_can_be_resumed(work: Path, tmp_path: Path) -> None:
    write_yaml(tmp_path / "s.yml", DATA)
    with start(tmp_path, tmp_path / "out") as process:
        wait_for(process, tmp_path / "out", '"event":"start"', 5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].endswith("--resume") and "interrupted" in said and "Traceback" not in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["search"]
    assert len(search(DATA, tmp_path, resume=True).trials) == 40
