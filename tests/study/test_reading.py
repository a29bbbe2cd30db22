"""Looking at a study that someone else may be writing."""

from pathlib import Path

import pytest

from mergeopt.errors import InputError, MergeoptError
from mergeopt.space.dimension import Dimension
from mergeopt.study.reading import read_study
from mergeopt.study.record import Generation, Step, StudyRecord, Trial

SPACE = {"": (Dimension("x", 0.0, 1.0, 0.5),)}
IDENTITY = {"objective": [{"eval": "a"}]}


def trial(number: int, **changes: object) -> Trial:
    given = {"number": number, "branch": "", "params": {"x": 0.25}, "value": 0.5, "error": 0.1, "items": {"a": (0.5,)}}
    return Trial(**{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("database", [False, True])
def test_a_running_study_is_read_and_left_alone(database: bool, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db" if database else None
    step = Step(1, "", (0.25,), frozenset({"gradient"}), -2.0, (1.0,))
    with StudyRecord.create(tmp_path / "search", space=SPACE, identity=IDENTITY, storage=storage) as record:
        for number in (2, 0):
            record.start(number, "", (0.25,), Generation(0, 3))
        record.step(step, Generation(0, 3))
        record.finish(trial(2, value=None, error=None, state="failed"))
        record.finish(trial(0))
        record.note("near", {"folder": "here"})
        with (tmp_path / "search" / "log.jsonl").open("a") as log:
            log.write('{"event": "no')  # the writer is in the middle of a line
        held = sorted(path.name for path in (tmp_path / "search").iterdir())
        found = read_study(tmp_path / "search", storage=storage)
        assert sorted(path.name for path in (tmp_path / "search").iterdir()) == held
    assert [t.number for t in found.trials] == [0, 2]
    assert (found.trials[0].value, found.trials[0].error, found.trials[1].state) == (0.5, 0.1, "failed")
    assert (found.steps, found.identity, found.notes("near")) == ([step], IDENTITY, [{"folder": "here"}])


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no study"):
        read_study(tmp_path)
    with StudyRecord.create(tmp_path / "search", space=SPACE, identity=IDENTITY) as record:
        record.finish(trial(0))
    with pytest.raises(InputError, match="the storage cannot be read"):
        read_study(tmp_path / "search", storage="nonsense://x")
    (tmp_path / "search" / "journal.log").write_text("{}\n")
    with pytest.raises(InputError, match="the storage cannot be read"):
        read_study(tmp_path / "search")
    (tmp_path / "search" / "log.jsonl").write_text("what?\n")
    with pytest.raises(MergeoptError, match=r"log\.jsonl:1: not an event"):
        read_study(tmp_path / "search")
