"""The event log survives a torn line and nothing else."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mergeopt.errors import MergeoptError
from mergeopt.study.log import EventLog, plain, read_log


def test_events_come_back_in_order(tmp_path: Path) -> None:
    with EventLog(tmp_path / "log.jsonl") as log:
        log.append("start", number=0, point=(0.5, 1.0))
        log.append("note", kind="x", payload={"a": math.nan, "b": [math.inf]})
    assert read_log(tmp_path / "log.jsonl") == [
        {"event": "start", "number": 0, "point": [0.5, 1.0]},
        {"event": "note", "kind": "x", "payload": {"a": None, "b": [None]}},
    ]


def test_numbers_become_plain() -> None:
    given = {"f": np.float32(0.5), "nan": np.float64("nan"), "i": np.int64(3), "a": np.arange(2), "s": {"b", "a"}}
    assert json.loads(json.dumps(plain(given), allow_nan=False)) == {
        "f": 0.5,
        "nan": None,
        "i": 3,
        "a": [0, 1],
        "s": ["a", "b"],
    }
    with pytest.raises(TypeError, match="object"):
        plain(object())


@pytest.mark.parametrize("torn", ['{"event": "sta', '{"event": "start"}', "\x00\x00"])
def test_a_torn_last_line_is_ignored_and_cut(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "log.jsonl"
    with EventLog(path) as log:
        log.append("start", number=0)
    with path.open("a") as file:
        file.write(torn)
    assert [e["number"] for e in read_log(path)] == [0]
    with EventLog(path) as log:
        log.append("start", number=1)
    assert [e["number"] for e in read_log(path)] == [0, 1]


@pytest.mark.parametrize("damage", ["{broken\n", "[1]\n", '{"number": 1}\n', "\n"])
def test_a_malformed_line_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"event": "start"}\n' + damage + '{"event": "start"}\n')
    with pytest.raises(MergeoptError, match=r"log\.jsonl:2"):
        read_log(path)


def test_a_failed_write_is_said_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    with EventLog(path) as log:
        log.append("start", number=0)
        write = __import__("os").write
        with monkeypatch.context() as patch:
            patch.setattr("mergeopt.study.log.os.write", lambda file, data: write(file, data[:5]))
            with pytest.raises(MergeoptError, match="5 of"):
                log.append("start", number=1)
        log.append("start", number=2)
    assert [e["number"] for e in read_log(path)] == [0, 2]
