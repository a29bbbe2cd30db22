"""The loop: ask a generation, measure it, tell it, remember it.

Proposals come in generations of a fixed size, whatever the executor, and outcomes are told in order of number; with
proposals that are pure functions of what was told before, the same seed gives the same history, and a resumed study
goes on exactly where the killed one was: finished trials are told from the record, unfinished ones run again.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from mergeopt.optimizers.base import Optimizer, Outcome, Request
from mergeopt.scoring.base import Scores
from mergeopt.scoring.objective import Reference, objective, stderr
from mergeopt.space.branch import Branch
from mergeopt.study.events import Listener, StepDone, TrialDone
from mergeopt.study.record import Generation, Step, StudyRecord, Trial

Point = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one request gave. Of a request on the search split: `scores`, None where the candidate computes NaN.

    Of one on calibrate: `value`, minus the loss, None where it is NaN; and what was asked for, the gradient of `value`
    or the held-out losses per domain.
    """

    scores: Scores | None = None
    value: float | None = None
    gradient: Point | None = None
    items: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    tokens: int = 0


class Executor(Protocol):
    """Evaluates, and nothing else: in this process, or on any number of workers."""

    def measure(self, requests: Sequence[Request]) -> Iterator[Measured]:
        """What each request gave, in their order, whatever order they were done in; points are rounded already."""
        ...


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: after `trials`, or at the end of the generation in which `tokens` or `seconds` are used up.

    Seconds are wall time: of this process since the search began, and of recorded proposals before it.
    """

    trials: int
    tokens: int | None = None
    seconds: float | None = None

    def spent(self, done: Sequence[Trial | Step], seconds: float) -> bool:
        if self.tokens is not None and sum(one.tokens for one in done) >= self.tokens:
            return True
        return self.seconds is not None and seconds >= self.seconds


class Loop:
    """Runs one study's proposals: trials, and the gradient's steps between them.

    Args:
        optimizer: Proposes.
        branches: Of the space; a request's branch indexes them.
        executor: Measures a generation.
        reference: Turns scores into the objective.
        record: Remembers.
        batch: Proposals per generation.
        listener: Told of every finished trial and step.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        branches: Sequence[Branch],
        executor: Executor,
        reference: Reference,
        record: StudyRecord,
        *,
        batch: int,
        listener: Listener,
    ) -> None:
        self._optimizer, self._branches, self._executor = optimizer, branches, executor
        self._reference, self._record, self._batch, self._listener = reference, record, batch, listener
        self._known: dict[int, Trial | Step] = {trial.number: trial for trial in record.trials}
        self._known |= {step.number: step for step in record.steps}
        self._seen: dict[tuple[int, Point], Trial] = {}

    def run(self, budget: Budget) -> list[Trial]:
        """Runs to the end of the budget, or until the optimizer has nothing left to propose."""
        done: list[Trial | Step] = []
        begun = time.perf_counter() - sum(one.seconds for one in self._known.values())
        while not (done and budget.spent(done, time.perf_counter() - begun)):
            room = budget.trials - len(_trials(done))
            group = self._record.generation(len(done)) or Generation(len(done), self._batch)
            if all(number in self._known for number in group.numbers):
                requests = [self._recorded(self._known[number]) for number in group.numbers]
            else:
                requests, group = self._asked(len(done), room)
            if room <= 0 or not requests:
                break
            made = self._generation(requests, group)
            for request, one in zip(requests, made, strict=True):
                self._optimizer.tell(_outcome(request, one))
            done += made
        return _trials(done)

    def _asked(self, first: int, room: int) -> tuple[list[Request], Generation]:
        """The next generation. One that the budget cuts keeps its full size: with a larger one it would go on."""
        requests: list[Request] = []
        for _ in range(self._batch):
            if sum(request.split == "search" for request in requests) == room:
                return requests, Generation(first, self._batch)
            request = self._optimizer.ask()
            if request is None:
                break
            requests.append(replace(request, point=self._branches[request.branch].rounded(request.point)))
        return requests, Generation(first, len(requests))

    def _generation(self, requests: Sequence[Request], group: Generation) -> list[Trial | Step]:
        """What one generation gave: from the record, from a twin with the same point, or measured now."""
        seen, to_measure = set(self._seen), []
        for request in requests:
            twin = request.split == "search" and _key(request) in seen
            if request.number not in self._known and not twin:
                to_measure.append(request)
            if request.split == "search":
                seen.add(_key(request))
        for request in to_measure:
            if request.split == "search":
                self._record.start(request.number, self._branches[request.branch].name, request.point, group)
        results = self._executor.measure(to_measure)
        return [
            self._trial(request, results) if request.split == "search" else self._step(request, results, group)
            for request in requests
        ]

    def _step(self, request: Request, results: Iterator[Measured], group: Generation) -> Step:
        known = self._known.get(request.number)
        if isinstance(known, Step):
            return known
        begun = time.perf_counter()
        measured = next(results)
        step = Step(
            number=request.number,
            branch=self._branches[request.branch].name,
            point=request.point,
            wants=request.wants,
            value=measured.value,
            gradient=measured.gradient,
            items=measured.items,
            seconds=time.perf_counter() - begun,
            tokens=measured.tokens,
        )
        self._record.step(step, group)
        gradient = "gradient" in step.wants
        self._listener(StepDone(step.number, step.value, gradient, step.seconds, step.tokens, request.level))
        return step

    def _trial(self, request: Request, results: Iterator[Measured]) -> Trial:
        key, trial = _key(request), self._known.get(request.number)
        if not isinstance(trial, Trial):
            begun = time.perf_counter()
            twin = self._seen.get(key)
            if twin is not None:  # the same point has the same scores
                trial = replace(twin, number=request.number, seconds=0.0, tokens=0)
            else:
                trial = self._scored(request, next(results), begun)
            self._record.finish(trial)
            self._listener(self._told(trial))
        self._seen.setdefault(key, trial)
        return trial

    def _told(self, trial: Trial) -> TrialDone:
        feasible = [t for t in [*self._seen.values(), trial] if t.value is not None and t.violation == 0]
        best = max(feasible, key=lambda t: t.value or 0.0, default=None)
        return TrialDone(
            trial.number,
            trial.value,
            best.value if best else None,
            trial.seconds,
            trial.params,
            trial.error,
            best.error if best else None,
            trial.tokens,
        )

    def _scored(self, request: Request, measured: Measured, begun: float) -> Trial:
        branch, scores = self._branches[request.branch], measured.scores
        params = {d.name: v for d, v in zip(branch.dimensions, request.point, strict=True)}
        seconds = time.perf_counter() - begun
        if scores is None:
            return Trial(
                request.number, branch.name, params, None, state="failed", seconds=seconds, tokens=measured.tokens
            )
        result = objective(scores, self._reference)
        return Trial(
            number=request.number,
            branch=branch.name,
            params=params,
            value=result.value,
            error=stderr(scores, self._reference),
            violation=result.violation,
            objectives=tuple(result.per_eval.values()),
            scores={score.name: score.value for score in scores},
            items={score.name: tuple(score.items.tolist()) for score in scores},
            seconds=seconds,
            tokens=scores.tokens,
        )

    def _recorded(self, one: Trial | Step) -> Request:
        """The request behind a recorded proposal."""
        index = next(i for i, branch in enumerate(self._branches) if branch.name == one.branch)
        if isinstance(one, Step):
            return Request(one.number, one.point, index, one.wants, "calibrate")
        return Request(one.number, tuple(one.params[d.name] for d in self._branches[index].dimensions), index)


def _trials(done: Sequence[Trial | Step]) -> list[Trial]:
    return [one for one in done if isinstance(one, Trial)]


def _outcome(request: Request, one: Trial | Step) -> Outcome:
    if isinstance(one, Step):
        return Outcome(request, request.point, one.value, items=one.items, gradient=one.gradient)
    return Outcome(request, request.point, one.value, one.violation, items=one.items, objectives=one.objectives)


def _key(request: Request) -> tuple[int, Point]:
    """Trials of one key give the same."""
    return request.branch, request.point
