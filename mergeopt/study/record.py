"""The study's memory: what was tried, what it gave, and what a dead process had begun.

The truth is an Optuna storage (a journal file, or any database by URL): a finished trial is one entry in it, which
optuna-dashboard can show. Before that, its start and its per-item outcomes go to our own log, fsynced. A crash between
the two leaves a trial that has begun and not finished: it is run again under its own number, and the later log entry
counts. A step (a gradient or a held-out loss) scores no candidate, so it is no trial: it stands in the log alone.
"""

import logging
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import optuna
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from mergeopt.errors import InputError, MergeoptError
from mergeopt.optimizers.base import Want
from mergeopt.space.dimension import Dimension
from mergeopt.study.lock import StudyLock, cannot_write
from mergeopt.study.log import Event, EventLog, cut_torn_line, plain, read_log
from mergeopt.study.signals import undisturbed

Space = Mapping[str, Sequence[Dimension]]  # branch name -> its dimensions


@dataclass(frozen=True, slots=True)
class Generation:
    """Proposals `first` to `first + size − 1`, asked for together."""

    first: int
    size: int

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.size)


@dataclass(frozen=True, slots=True)
class Begun:
    """A trial that was started; `point` is in the order of its branch's dimensions."""

    number: int
    branch: str
    point: tuple[float, ...]


@dataclass(frozen=True)
class Step:
    """A gradient or held-out losses at a point, by the lessons of the calibrate split. `value` None: NaN or infinity.

    `items` are losses per domain. Numbers are shared with trials: both are proposals.
    """

    number: int
    branch: str
    point: tuple[float, ...]
    wants: frozenset[Want]
    value: float | None
    gradient: tuple[float, ...] | None = None
    items: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class Trial:
    """One point, tried. `value` is None exactly when `state` is "failed"; `error` is its standard error, if known."""

    number: int
    branch: str
    params: Mapping[str, float]
    value: float | None
    violation: float = 0.0
    objectives: tuple[float, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    items: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: int = 0
    error: float | None = None
    state: Literal["complete", "failed"] = "complete"


class StudyRecord:
    """One study on disk: open it with `create` or `resume`; it has one writer at a time."""

    def __init__(
        self, folder: Path, lock: StudyLock, study: optuna.Study, space: Space, events: Sequence[Event]
    ) -> None:
        self.folder, self._lock, self._study, self._space = folder, lock, study, space
        self._trials: dict[int, Trial] = {}
        self._begun: dict[int, Begun] = {}
        self._steps: dict[int, Step] = {}
        self._generations: dict[int, Generation] = {}  # by first number
        self._notes: list[tuple[str, dict[str, Any]]] = []
        self._load(events)
        self._log = EventLog(folder / "log.jsonl")

    @classmethod
    def create(
        cls, folder: Path, *, space: Space, identity: Mapping[str, Any], storage: str | None = None
    ) -> "StudyRecord":
        """Begins a study in `folder`, which may exist and must not hold one.

        Args:
            folder: For `log.jsonl`, `journal.log` and the lock.
            space: Branch names and their dimensions, in the order of the branches.
            identity: What makes it this study (recipe, seed, items ...): plain JSON values, compared on resuming.
            storage: An Optuna storage URL (``postgresql://…``, ``sqlite:///…``); None is a journal file in `folder`.

        Raises:
            InputError: There is a study already, or the folder or the storage cannot be opened.
        """
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise cannot_write(folder, fault) from None
        lock = StudyLock(folder / "lock")
        try:
            if (folder / "log.jsonl").exists() and read_log(folder / "log.jsonl"):
                raise InputError("there is a study already", where=str(folder), remedy="resume it, or remove it")
            name = f"{folder.resolve().parent.name}-{uuid.uuid4().hex[:8]}"
            with _quiet(), undisturbed():
                study = optuna.create_study(storage=_opened(folder, storage), study_name=name, direction="maximize")
            record = cls(folder, lock, study, space, [])
            record._log.append("study", name=name, identity=identity, time=time.time())
        except BaseException:
            lock.release()
            if made:  # nothing was begun: nothing stays
                shutil.rmtree(made[-1])
            raise
        return record

    @classmethod
    def resume(
        cls, folder: Path, *, space: Space, identity: Mapping[str, Any], storage: str | None = None
    ) -> "StudyRecord":
        """Opens the study that `create` began with the same arguments.

        Raises:
            InputError: There is none, or it was begun with another identity, naming the first key that differs.
        """
        if not (folder / "log.jsonl").exists():
            raise InputError("there is no study to resume", where=str(folder))
        lock = StudyLock(folder / "lock")
        try:
            events = read_log(folder / "log.jsonl")
            if not events or events[0]["event"] != "study":
                raise InputError("there is no study to resume", where=str(folder))
            _same(events[0]["identity"], plain(identity), folder)
            try:
                with _quiet():
                    study = optuna.load_study(study_name=events[0]["name"], storage=_opened(folder, storage))
            except KeyError:
                raise InputError(
                    f"the storage has no study {events[0]['name']!r}",
                    where=str(folder),
                    remedy="give the storage that the study was begun with",
                ) from None
            return cls(folder, lock, study, space, events)
        except BaseException:
            lock.release()
            raise

    def _load(self, events: Sequence[Event]) -> None:
        measured: dict[int, Event] = {}
        for event in events:
            match event["event"]:
                case "start":
                    begun = Begun(event["number"], event["branch"], tuple(event["point"]))
                    self._begun[begun.number] = begun
                    self._grouped(event)
                case "step":
                    step = step_of(event)
                    self._steps[step.number] = step
                    self._grouped(event)
                case "items":
                    measured[event["number"]] = event
                case "note":
                    self._notes.append((event["kind"], event["payload"]))
        for frozen in self._study.get_trials(deepcopy=False):
            trial = trial_of(frozen, measured)
            if trial is not None:
                self._trials[trial.number] = trial

    def _grouped(self, event: Event) -> None:
        if "generation" in event:  # older logs have none
            generation = Generation(*event["generation"])
            self._generations[generation.first] = generation

    def start(self, number: int, branch: str, point: Sequence[float], generation: Generation) -> None:
        """Notes that a trial begins; on disk when this returns."""
        begun = Begun(number, branch, tuple(float(v) for v in point))
        group = (generation.first, generation.size)
        self._log.append("start", number=number, branch=branch, point=begun.point, generation=group, time=time.time())
        self._begun[number] = begun

    def step(self, step: Step, generation: Generation) -> None:
        """Records a step; on disk when this returns.

        Raises:
            ValueError: There is one of this number.
        """
        if step.number in self._steps:
            raise ValueError(f"step {step.number} is recorded already")
        group = (generation.first, generation.size)
        self._log.append("step", **vars(step), generation=group)
        self._steps[step.number] = step

    def generation(self, first: int) -> Generation | None:
        """The proposals that were asked for together with number `first`, the first of them, if that is recorded."""
        return self._generations.get(first)

    def finish(self, trial: Trial) -> None:
        """Records a finished trial: its items in the log, then the trial as one entry of the storage.

        Raises:
            ValueError: A trial of this number is recorded, or a parameter is not of the branch or out of its range.
        """
        if trial.number in self._trials:
            raise ValueError(f"trial {trial.number} is recorded already")
        dimensions = {d.name: d for d in self._space[trial.branch]}
        if trial.params.keys() != dimensions.keys():
            raise ValueError(f"trial {trial.number}: {set(trial.params) ^ dimensions.keys()} differ from the branch")
        self._log.append("items", number=trial.number, items=trial.items)
        made = create_trial(
            state=TrialState.COMPLETE if trial.state == "complete" else TrialState.FAIL,
            value=trial.value,
            params=dict(trial.params),
            distributions={name: FloatDistribution(d.low, d.high, log=d.log) for name, d in dimensions.items()},
            constraints={"violation": trial.violation},
            user_attrs=plain(
                {
                    "number": trial.number,
                    "branch": trial.branch,
                    "seconds": trial.seconds,
                    "tokens": trial.tokens,
                    "scores": trial.scores,
                    "objectives": trial.objectives,
                    "error": trial.error,
                }
            ),
        )
        with undisturbed():  # the journal's lock file, cut short, is an error of its own
            self._study.add_trial(made)
        self._trials[trial.number] = trial

    @property
    def trials(self) -> list[Trial]:
        """The finished trials, by number."""
        return [self._trials[number] for number in sorted(self._trials)]

    @property
    def steps(self) -> list[Step]:
        """The steps, by number."""
        return [self._steps[number] for number in sorted(self._steps)]

    @property
    def unfinished(self) -> list[Begun]:
        """Trials that were started and not finished, by number: to be run again."""
        return [self._begun[n] for n in sorted(self._begun.keys() - self._trials.keys())]

    def note(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Keeps another fact: reference scores, the finalists, a reading of the report split."""
        self._log.append("note", kind=kind, payload=payload, time=time.time())
        self._notes.append((kind, plain(payload)))

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """Every note of this kind, in order."""
        return [payload for k, payload in self._notes if k == kind]

    def close(self) -> None:
        self._log.close()
        self._study._storage.remove_session()
        self._lock.release()

    def __enter__(self) -> "StudyRecord":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna logs every study it creates at INFO; the user hears of it from us."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _opened(folder: Path, storage: str | None) -> BaseStorage:
    if storage is None:
        _mend_journal(folder / "journal.log")
        return JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    try:
        return optuna.storages.get_storage(storage)
    except Exception as error:  # SQLAlchemy's own errors, a missing driver, a refused connection
        raise InputError(f"the storage cannot be opened: {error}", where="storage") from error


def _mend_journal(path: Path) -> None:
    """Takes away what a killed writer leaves beside and at the end of Optuna's journal. Only for the study's owner.

    Optuna would wait 30 s for the stale lock, and would append its next entry to a torn line, which makes the file
    unreadable. The dashboard may hold the lock too, but for milliseconds.
    """
    lock = path.with_name(path.name + ".lock")
    for _ in range(20):
        if not lock.is_symlink():
            break
        time.sleep(0.05)
    lock.unlink(missing_ok=True)
    if path.exists():
        cut_torn_line(path)


def _same(recorded: dict[str, Any], given: dict[str, Any], folder: Path, inside: str = "") -> None:
    """Raises InputError that names the innermost key that differs."""
    for key in [*recorded, *(k for k in given if k not in recorded)]:
        before, now = recorded.get(key), given.get(key)
        if before != now:
            name = f"{inside}{key}"
            if isinstance(before, dict) and isinstance(now, dict):
                _same(before, now, folder, f"{name}.")
            raise InputError(
                f"the study was begun with another {name}: {_short(before)}, not {_short(now)}",
                where=str(folder),
                remedy="begin a new study, or give what this one was begun with",
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def trial_of(frozen: optuna.trial.FrozenTrial, measured: Mapping[int, Event]) -> Trial | None:
    """Our trial from Optuna's; None for one that is not ours (the dashboard's users may queue their own)."""
    attrs = frozen.user_attrs
    if not frozen.state.is_finished() or "number" not in attrs:
        return None
    number = attrs["number"]
    if number not in measured:
        raise MergeoptError(f"trial {number} is in the storage, but its items are not in log.jsonl")
    return Trial(
        number=number,
        branch=attrs["branch"],
        params=dict(frozen.params),
        value=frozen.value if frozen.state is TrialState.COMPLETE else None,
        violation=frozen.constraints.get("violation", 0.0),
        objectives=tuple(attrs["objectives"]),
        scores=attrs["scores"],
        items={name: _numbers(values) for name, values in measured[number]["items"].items()},
        seconds=attrs["seconds"],
        tokens=attrs["tokens"],
        error=attrs.get("error"),  # older journals have none
        state="complete" if frozen.state is TrialState.COMPLETE else "failed",
    )


def step_of(event: Event) -> Step:
    """A step from its line of the log."""
    gradient = event["gradient"]
    return Step(
        number=event["number"],
        branch=event["branch"],
        point=tuple(event["point"]),
        wants=frozenset(event["wants"]),
        value=event["value"],
        gradient=None if gradient is None else _numbers(gradient),
        items={name: _numbers(values) for name, values in event["items"].items()},
        seconds=event["seconds"],
        tokens=event["tokens"],
    )


def _numbers(values: Sequence[float | None]) -> tuple[float, ...]:
    """As they were before JSON, which has no NaN."""
    return tuple(float("nan") if value is None else float(value) for value in values)
