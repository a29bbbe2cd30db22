"""A study as it lies on disk, for whoever only looks: no lock is taken and nothing mended, so it may be running."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from mergeopt.errors import InputError
from mergeopt.study.log import Event, read_log
from mergeopt.study.record import Step, Trial, step_of, trial_of


@dataclass(frozen=True)
class Reading:
    """What a study holds now.

    `identity` is what it was begun with (recipe, objective, options), `trials` and `steps` are in order of number.
    """

    identity: Mapping[str, Any]
    trials: Sequence[Trial]
    steps: Sequence[Step]
    events: Sequence[Event]

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """Every note of this kind, in order."""
        return [event["payload"] for event in self.events if event["event"] == "note" and event["kind"] == kind]


def read_study(folder: Path, *, storage: str | None = None) -> Reading:
    """Reads the study in `folder`, finished, killed or running.

    Args:
        folder: With ``log.jsonl``.
        storage: The Optuna storage URL that it was begun with; None is the journal in `folder`.

    Raises:
        InputError: there is no study, or its storage cannot be read.
        MergeoptError: its log is damaged.
    """
    path = folder / "log.jsonl"
    events = read_log(path) if path.is_file() else []
    if not events or events[0]["event"] != "study":
        raise InputError("holds no study", where=str(folder), remedy="give a folder that `mergeopt search` wrote")
    steps = sorted((step_of(event) for event in events if event["event"] == "step"), key=lambda step: step.number)
    trials = _trials(folder, events, storage)
    return Reading(events[0]["identity"], sorted(trials, key=lambda trial: trial.number), steps, events)


def _trials(folder: Path, events: Sequence[Event], storage: str | None) -> list[Trial]:
    measured = {event["number"]: event for event in events if event["event"] == "items"}
    if storage is None and not (folder / "journal.log").is_file():
        if not measured:
            return []
        raise InputError("the trials are in a storage elsewhere", where=str(folder), remedy="name it with --storage")
    try:
        kept = optuna.load_study(study_name=events[0]["name"], storage=_opened(folder, storage))
        frozen = kept.get_trials(deepcopy=False)
    except Exception as error:  # SQLAlchemy's own errors, no such study, a line of the journal that is being written
        raise InputError(f"the storage cannot be read: {error}", where=storage or str(folder / "journal.log")) from None
    # one that was finished after the log was read is told of next time
    found = (trial_of(each, measured) for each in frozen if each.user_attrs.get("number") in measured)
    return [trial for trial in found if trial is not None]


def _opened(folder: Path, storage: str | None) -> BaseStorage:
    if storage is not None:
        return optuna.storages.get_storage(storage)
    return JournalStorage(JournalFileBackend(str(folder / "journal.log")))
