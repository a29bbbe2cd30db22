"""A search as one sees it: on a terminal of its own, piped, as JSON lines, and interrupted."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mergeopt.cli.study_display import StudyDisplay, as_data
from mergeopt.study.events import Notice, Phase, StepDone, TrialDone, Written
from mergeopt.study.job import open_record
from tests.cli.test_commands import call
from tests.study.family import search_data, write_yaml
from tests.study.test_search import prepare


def test_events_as_lines_of_json(work: Path, tmp_path: Path) -> None:
    data = search_data(method="auto", trials=4) | {"learn": {"steps": 3}}
    result = call("search", write_yaml(tmp_path / "s.yml", data), tmp_path / "out", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert events[-1]["event"] == "result"
    saved = json.loads((tmp_path / "out" / "result.json").read_text())
    assert events[-1] == {"event": "result", **saved}
    phases = [event["phase"] for event in events if event["event"] == "phase"]
    assert phases == ["references", "lessons", "search", "select", "report", "write"]
    trials = [event for event in events if event["event"] == "trial"]
    assert len(trials) == 4 and all(event["error"] > 0 for event in trials)
    best = max(event["value"] for event in trials)
    assert trials[-1]["best"] == best
    steps = [event for event in events if event["event"] == "step"]
    assert sum(not event["held_out"] for event in steps) == 3
    assert {event["level"] for event in steps if not event["held_out"]} != {""}
    names = {event["name"] for event in events if event["event"] == "scored" and event["split"] == "report"}
    assert names == {row["name"] for row in saved["rows"]}


def test_bytes_written_are_no_line() -> None:
    assert as_data(Written(10)) == {}


def test_plain_lines(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = prepare(search_data(), tmp_path)
    with open_record(job, tmp_path / "out" / "search", resume=False) as record, StudyDisplay(job, record) as display:
        display(Phase("search", 12))
        display(Notice("a \x1b[31mred\x1b[0m note"))
        for number, value in enumerate([0.1, 0.3, None, 0.2, 0.5] + [0.1] * 7):
            best = max(v for v in [0.1, 0.3, None, 0.2, 0.5][: number + 1] if v is not None)
            display(TrialDone(number, value, best, 1.0, {}, 0.02, 0.02, 5))
        display(StepDone(12, -0.5, True, 0.1, 5, "blocks"))
        display(StepDone(13, -0.25, False, 0.1, 5, "blocks"))
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line.rpartition(" (")[0] or line for line in said.err.splitlines()]
    assert lines == [
        "searching 2 numbers",
        r"note: a \x1b[31mred\x1b[0m note",
        "trial 2: .300 ± .020, best .300 ± .020",
        "trial 5: .500 ± .020, best .500 ± .020",
        "trial 10: .100 ± .020, best .500 ± .020",
        "step 1, by blocks, held-out loss 0.250",
    ]


@contextmanager
def terminal(*words: object, size: tuple[int, int] = (24, 80)) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A command on a terminal of its own; gives its other end and the process."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}
    environment.pop("COLUMNS", None)
    command = [sys.executable, "-m", "mergeopt", *map(str, words)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    try:
        yield ours, process
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(ours: int, word: str | None, limit: float = 120) -> str:
    """What comes from the terminal up to `word`, or to its end."""
    said, deadline = b"", time.monotonic() + limit
    while time.monotonic() < deadline and (word is None or word.encode() not in said):
        try:
            more = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        said += more
    assert word is None or word.encode() in said, said.decode(errors="replace")
    return said.decode(errors="replace")


@pytest.mark.slow
def test_an_interrupted_search_says_how_to_go_on(work: Path, tmp_path: Path) -> None:
    space = write_yaml(tmp_path / "s.yml", search_data(trials=100_000))
    with terminal("search", space, tmp_path / "out", "--force") as (ours, process):
        live = read_until(ours, "best  ")
        process.send_signal(signal.SIGINT)
        last = read_until(ours, None)
        assert process.wait(60) == 130
    assert "references" in live and "select" in live and "trials" in live
    tail = last.replace("\r", "").rstrip("\n").split("\n")[-2:]
    assert "interrupted" in tail[0]
    assert tail[1] == f"go on with: mergeopt search {space} {tmp_path / 'out'} --resume"
    assert "\x1b[?25h" in last  # the cursor is back
    assert (tmp_path / "out" / "search" / "log.jsonl").exists()
    assert call("report", tmp_path / "out").stdout == f"wrote {tmp_path / 'out' / 'search' / 'report.html'}\n"
    made = (tmp_path / "out" / "search" / "report.html").read_text()
    assert "Not finished" in made and f"mergeopt search {space}" in made


def test_a_report_of_nothing(tmp_path: Path) -> None:
    result = call("report", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path}/search: holds no study; give a folder that")
