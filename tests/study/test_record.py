"""The record keeps every finished trial through any kill, and has one writer."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import optuna
import pytest

from mergeopt.errors import InputError, MergeoptError
from mergeopt.space.dimension import Dimension
from mergeopt.study.record import Generation, Step, StudyRecord, Trial

SPACE = {
    "ties": (Dimension("zoo/sort.weight", 0.0, 1.5, 0.5), Dimension("zoo/sort.density", 0.01, 1.0, 0.5, log=True)),
    "linear": (),
}
IDENTITY = {"recipe": {"merge_method": "ties"}, "seed": 0}


def trial(number: int, **changes: object) -> Trial:
    given: dict[str, object] = {
        "number": number,
        "branch": "ties",
        "params": {"zoo/sort.weight": 0.25, "zoo/sort.density": 0.1},
        "value": 0.5 + number / 100,
        "objectives": (0.5, 0.25),
        "scores": {"sort": 0.5},
        "items": {"sort": (1.0, 0.0, 0.5)},
        "seconds": 1.5,
    }
    return Trial(**{**given, **changes})  # type: ignore[arg-type]


def create(folder: Path, **changes: object) -> StudyRecord:
    return StudyRecord.create(folder, **{"space": SPACE, "identity": IDENTITY, **changes})  # type: ignore[arg-type]


def resume(folder: Path, **changes: object) -> StudyRecord:
    return StudyRecord.resume(folder, **{"space": SPACE, "identity": IDENTITY, **changes})  # type: ignore[arg-type]


def run(record: StudyRecord, given: Trial) -> None:
    record.start(given.number, given.branch, tuple(given.params.values()), Generation(given.number, 1))
    record.finish(given)


def step(number: int, **changes: object) -> Step:
    given: dict[str, object] = {
        "number": number,
        "branch": "ties",
        "point": (0.25, 0.1),
        "wants": frozenset({"gradient"}),
        "value": -0.5 - 1 / 3,
        "gradient": (1e-17, -2.5),
        "seconds": 0.5,
        "tokens": 30,
    }
    return Step(**{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_what_was_finished_comes_back(tmp_path: Path, kind: str) -> None:
    storage = None if kind == "journal" else f"sqlite:///{tmp_path}/study.db"
    trials = [
        trial(0),
        trial(1, value=None, state="failed", scores={}, items={}),
        trial(2, violation=0.5),
        trial(3, branch="linear", params={}),
    ]
    with create(tmp_path / "search", storage=storage) as record:
        for number in (1, 0, 2, 3):  # finished out of order, as workers do
            run(record, trials[number])
        record.start(4, "ties", (0.1, 0.2), Generation(4, 2))
        record.note("reference", {"base": 0.3})
        record.note("finalists", {"numbers": [0]})
        record.note("reference", {"uniform": 0.4})
    with resume(tmp_path / "search", storage=storage) as record:
        assert record.trials == trials
        assert [(b.number, b.branch, b.point) for b in record.unfinished] == [(4, "ties", (0.1, 0.2))]
        assert record.notes("reference") == [{"base": 0.3}, {"uniform": 0.4}]
        run(record, trial(4))
        assert [t.number for t in record.trials] == [0, 1, 2, 3, 4]
        assert record.unfinished == []


def test_optuna_reads_the_journal(tmp_path: Path) -> None:
    with create(tmp_path / "search") as record:
        run(record, trial(0))
        run(record, trial(1, value=None, state="failed"))
        run(record, trial(2, violation=0.5))
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "search" / "journal.log"))
    )
    (summary,) = optuna.get_all_study_summaries(storage)
    study = optuna.load_study(study_name=summary.study_name, storage=storage)
    states = [t.state.name for t in study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.best_trial.number == 0  # trial 2 scores higher and breaks its constraint
    assert study.trials[0].distributions["zoo/sort.density"].log  # type: ignore[attr-defined]
    assert study.trials[0].user_attrs["scores"] == {"sort": 0.5}


def test_a_study_is_not_begun_twice_nor_resumed_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no study to resume"):
        resume(tmp_path / "search")
    create(tmp_path / "search").close()
    with pytest.raises(InputError, match="already"):
        create(tmp_path / "search")
    resume(tmp_path / "search").close()  # the refusal left no lock behind


def test_another_identity_names_the_key(tmp_path: Path) -> None:
    create(tmp_path / "search").close()
    with pytest.raises(InputError, match="another seed: 0, not 1"):
        resume(tmp_path / "search", identity={**IDENTITY, "seed": 1})
    with pytest.raises(InputError, match="another items"):
        resume(tmp_path / "search", identity={**IDENTITY, "items": "abc"})
    resume(tmp_path / "search", identity=dict(reversed(IDENTITY.items()))).close()


def test_another_storage_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "search").close()
    with pytest.raises(InputError, match="the storage has no study"):
        resume(tmp_path / "search", storage=f"sqlite:///{tmp_path}/other.db")


def test_a_trial_is_checked_before_it_is_recorded(tmp_path: Path) -> None:
    with create(tmp_path / "search") as record:
        run(record, trial(0))
        with pytest.raises(ValueError, match="recorded already"):
            record.finish(trial(0))
        with pytest.raises(ValueError, match="differ from the branch"):
            record.finish(trial(1, params={"zoo/sort.weight": 0.1}))
        with pytest.raises(ValueError, match="value"):
            record.finish(trial(1, params={"zoo/sort.weight": 9.0, "zoo/sort.density": 0.1}))


def test_one_writer(tmp_path: Path) -> None:
    with create(tmp_path / "search"), pytest.raises(InputError, match=f"process {os.getpid()} on"):
        resume(tmp_path / "search")


def test_a_crash_between_log_and_journal_runs_the_trial_again(tmp_path: Path) -> None:
    search = tmp_path / "search"
    with create(search) as record:
        run(record, trial(0))
        journal = (search / "journal.log").read_bytes()
        run(record, trial(1, items={"sort": (0.0, 0.0, 0.0)}))
    (search / "journal.log").write_bytes(journal)  # the items are in the log, the trial is not in the journal
    with resume(search) as record:
        assert [t.number for t in record.trials] == [0]
        assert [b.number for b in record.unfinished] == [1]
        run(record, trial(1))
    with resume(search) as record:
        assert record.trials == [trial(0), trial(1)]


def test_what_a_killed_writer_leaves_in_the_journal_is_mended(tmp_path: Path) -> None:
    search = tmp_path / "search"
    with create(search) as record:
        run(record, trial(0))
    with (search / "journal.log").open("a") as file:
        file.write('{"op_code": 4, "work')
    (search / "journal.log.lock").symlink_to(search / "journal.log")
    began = time.monotonic()
    with resume(search) as record:
        run(record, trial(1))
    assert time.monotonic() - began < 10  # Optuna alone would wait 30 s for the lock
    with resume(search) as record:
        assert record.trials == [trial(0), trial(1)]


def test_items_lost_from_the_log_are_said(tmp_path: Path) -> None:
    search = tmp_path / "search"
    with create(search) as record:
        run(record, trial(0))
    lines = (search / "log.jsonl").read_text().splitlines(keepends=True)
    (search / "log.jsonl").write_text("".join(line for line in lines if '"items"' not in line))
    with pytest.raises(MergeoptError, match=r"trial 0 .* items are not in"):
        resume(search)


WRITER = """
    import sys
    from pathlib import Path
    from mergeopt.space.dimension import Dimension
    from mergeopt.study.record import Generation, StudyRecord, Trial

    space = {"ties": [Dimension(f"x{i}", 0.0, 1.0, 0.5) for i in range(8)]}
    with getattr(StudyRecord, sys.argv[2])(Path(sys.argv[1]), space=space, identity={}) as record:
        number = len(record.trials)
        while True:
            record.start(number, "ties", [0.5] * 8, Generation(number, 1))
            params = {f"x{i}": 0.5 for i in range(8)}
            record.finish(Trial(number, "ties", params, 0.5, items={"a": (float(number),) * 256}))
            print(number, flush=True)
            number += 1
"""


@pytest.mark.slow
def test_kill_minus_nine_at_any_moment_loses_at_most_the_running_trial(tmp_path: Path) -> None:
    space = {"ties": [Dimension(f"x{i}", 0.0, 1.0, 0.5) for i in range(8)]}
    acknowledged = -1
    for life in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path), "create" if life == 0 else "resume"],
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            for _ in range(10):
                acknowledged = int(process.stdout.readline())
            time.sleep(0.003 * life)
            process.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *(int(line) for line in process.stdout if line.endswith("\n"))])
        with StudyRecord.resume(tmp_path, space=space, identity={}) as record:
            numbers = [t.number for t in record.trials]
            assert numbers == list(range(len(numbers)))
            assert acknowledged < len(numbers) <= acknowledged + 2
            assert all(t.items["a"] == (float(t.number),) * 256 for t in record.trials)
            assert len(record.unfinished) <= 1


def test_steps_come_back_as_they_were(tmp_path: Path) -> None:
    steps = [
        step(0),
        step(1, wants=frozenset({"items"}), gradient=None, items={"sort": (0.1, 1 / 3), "retain sort": (2.0,)}),
        step(2, value=None, gradient=None),
        step(4, branch="linear", point=(), gradient=()),
    ]
    with create(tmp_path / "search") as record:
        for one in steps:
            record.step(one, Generation(0, 2) if one.number < 2 else Generation(2, 3))
        run(record, trial(3))
        with pytest.raises(ValueError, match="step 1 is recorded already"):
            record.step(steps[1], Generation(0, 2))
    with resume(tmp_path / "search") as record:
        assert record.steps == steps and record.trials == [trial(3)]  # to the last bit
        assert record.unfinished == []
        with pytest.raises(ValueError, match="step 0 is recorded already"):
            record.step(steps[0], Generation(0, 2))


def test_a_torn_step_is_none(tmp_path: Path) -> None:
    with create(tmp_path / "search") as record:
        record.step(step(0), Generation(0, 2))
        record.step(step(1), Generation(0, 2))
    path = tmp_path / "search" / "log.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with resume(tmp_path / "search") as record:
        assert record.steps == [step(0)]
        record.step(step(1), Generation(0, 2))
    with resume(tmp_path / "search") as record:
        assert record.steps == [step(0), step(1)]


def test_generations_are_known_by_their_first(tmp_path: Path) -> None:
    with create(tmp_path / "search") as record:
        record.step(step(0), Generation(0, 1))
        for number in (1, 2, 3):
            record.start(number, "ties", (0.25, 0.1), Generation(1, 3))
    with resume(tmp_path / "search") as record:
        assert [record.generation(n) for n in range(5)] == [Generation(0, 1), Generation(1, 3), None, None, None]
        assert list(Generation(1, 3).numbers) == [1, 2, 3]


def test_a_log_without_generations_is_read(tmp_path: Path) -> None:
    """Logs of studies begun before proposals had any."""
    path = tmp_path / "search" / "log.jsonl"
    with create(tmp_path / "search") as record:
        run(record, trial(0))
    events = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in e.items() if k != "generation"}) + "\n" for e in events))
    with resume(tmp_path / "search") as record:
        assert record.trials == [trial(0)] and record.generation(0) is None


def test_a_gradient_with_nan_keeps_its_length(tmp_path: Path) -> None:
    with create(tmp_path / "search") as record:
        record.step(step(0, gradient=(math.nan, 1.0)), Generation(0, 1))
    with resume(tmp_path / "search") as record:
        (found,) = record.steps
    assert found.gradient is not None and math.isnan(found.gradient[0]) and found.gradient[1] == 1.0


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/search: cannot be written to: Not a directory"):
        create(tmp_path / "file" / "search")
    (tmp_path / "study" / "lock").mkdir(parents=True)
    with pytest.raises(InputError, match="study: cannot be written to: Is a directory"):
        create(tmp_path / "study")
