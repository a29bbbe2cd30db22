"""The loop: ask a generation, measure it, tell it, remember it.

Proposals come in generations of a fixed size, whatever the executor, and outcomes are told in order of number; with
proposals that are pure functions of what was told before, the same seed gives the same history, and a resumed study
goes on exactly where the killed one was: finished trials are told from the record, unfinished ones run again.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mergeopt.optimizers.base import Optimizer, Outcome, Request, Want
from mergeopt.scoring.base import Scores
from mergeopt.scoring.objective import Reference, objective
from mergeopt.space.branch import Branch
from mergeopt.study.events import Listener, TrialDone
from mergeopt.study.record import StudyRecord, Trial

Point = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one request gave: `scores` None where the candidate computes NaN or infinity; the rest if asked for."""

    scores: Scores | None
    gradient: tuple[float, ...] | None = None
    fisher: tuple[tuple[float, ...], ...] | None = None


class Executor(Protocol):
    """Evaluates, and nothing else: in this process, or on any number of workers."""

    def measure(self, requests: Sequence[Request]) -> Iterator[Measured]:
        """What each request gave, in their order, whatever order they were done in; points are rounded already."""
        ...


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: after `trials`, or at the end of the generation in which `tokens` or `seconds` are used up.

    Seconds are wall time: of this process since the search began, and of recorded trials before it.
    """

    trials: int
    tokens: int | None = None
    seconds: float | None = None

    def spent(self, trials: Sequence[Trial], seconds: float) -> bool:
        if self.tokens is not None and sum(trial.tokens for trial in trials) >= self.tokens:
            return True
        return self.seconds is not None and seconds >= self.seconds


class Loop:
    """Runs one study's trials.

    Args:
        optimizer: Proposes.
        branches: Of the space; a request's branch indexes them.
        executor: Measures a generation.
        reference: Turns scores into the objective.
        record: Remembers.
        batch: Proposals per generation.
        listener: Told of every finished trial.
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
        self._known = {trial.number: trial for trial in record.trials}
        self._seen: dict[tuple[int, Point, frozenset[Want]], Trial] = {}

    def run(self, budget: Budget) -> list[Trial]:
        """Runs to the end of the budget, or until the optimizer has nothing left to propose."""
        done: list[Trial] = []
        begun = time.perf_counter() - sum(trial.seconds for trial in self._known.values())
        while len(done) < budget.trials and not (done and budget.spent(done, time.perf_counter() - begun)):
            numbers = range(len(done), min(len(done) + self._batch, budget.trials))
            if all(number in self._known for number in numbers):
                requests = [self._recorded(self._known[number]) for number in numbers]
            else:
                requests = [r for _ in numbers if (r := self._optimizer.ask()) is not None]
            if not requests:
                break
            trials = self._generation([replace(r, point=self._branches[r.branch].rounded(r.point)) for r in requests])
            for request, trial in zip(requests, trials, strict=True):
                self._optimizer.tell(self._outcome(request, trial))
            done += trials
        return done

    def _generation(self, requests: Sequence[Request]) -> list[Trial]:
        """The trials of one generation: from the record, from a twin with the same point, or measured now."""
        seen, to_measure = set(self._seen), []
        for request in requests:
            if request.number not in self._known and _key(request) not in seen:
                to_measure.append(request)
            seen.add(_key(request))
        for request in to_measure:
            self._record.start(request.number, self._branches[request.branch].name, request.point)
        results = self._executor.measure(to_measure)
        return [self._trial(request, results) for request in requests]

    def _trial(self, request: Request, results: Iterator[Measured]) -> Trial:
        key = _key(request)
        trial = self._known.get(request.number)
        if trial is None:
            begun = time.perf_counter()
            twin = self._seen.get(key)
            if twin is not None:  # the same point has the same scores
                trial = replace(twin, number=request.number, seconds=0.0, tokens=0)
            else:
                trial = self._scored(request, next(results), begun)
            self._record.finish(trial)
            values = [t.value for t in [*self._seen.values(), trial] if t.value is not None and t.violation == 0]
            self._listener(TrialDone(trial.number, trial.value, max(values, default=None), trial.seconds, trial.params))
        self._seen.setdefault(key, trial)
        return trial

    def _scored(self, request: Request, measured: Measured, begun: float) -> Trial:
        branch, scores = self._branches[request.branch], measured.scores
        params = {d.name: v for d, v in zip(branch.dimensions, request.point, strict=True)}
        seconds = time.perf_counter() - begun
        if scores is None:
            return Trial(request.number, branch.name, params, None, state="failed", seconds=seconds)
        result = objective(scores, self._reference)
        return Trial(
            number=request.number,
            branch=branch.name,
            params=params,
            value=result.value,
            violation=result.violation,
            objectives=tuple(result.per_eval.values()),
            scores={score.name: score.value for score in scores},
            items={score.name: tuple(score.items.tolist()) for score in scores},
            gradient=measured.gradient,
            fisher=measured.fisher,
            seconds=seconds,
            tokens=scores.tokens,
        )

    def _recorded(self, trial: Trial) -> Request:
        """The request behind a recorded trial, as far as it matters for telling."""
        index = next(i for i, branch in enumerate(self._branches) if branch.name == trial.branch)
        point = tuple(trial.params[d.name] for d in self._branches[index].dimensions)
        return Request(trial.number, point, index)

    def _outcome(self, request: Request, trial: Trial) -> Outcome:
        point = tuple(trial.params[d.name] for d in self._branches[request.branch].dimensions)
        return Outcome(
            request,
            point,
            trial.value,
            trial.violation,
            items=trial.items,
            gradient=trial.gradient,
            fisher=trial.fisher,
            objectives=trial.objectives,
        )


def _key(request: Request) -> tuple[int, Point, frozenset[Want]]:
    """Requests of one key give the same."""
    return request.branch, request.point, request.wants
