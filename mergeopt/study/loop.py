"""The loop: ask a generation, measure it, tell it, remember it.

Proposals come in generations of a fixed size, whatever the executor, and outcomes are told in order of number; with
proposals that are pure functions of what was told before, the same seed gives the same history, and a resumed study
goes on exactly where the killed one was: finished trials are told from the record, unfinished ones run again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mergeopt.optimizers.base import Optimizer, Outcome, Request
from mergeopt.scoring.base import Scores
from mergeopt.scoring.objective import Reference, objective
from mergeopt.space.branch import Branch
from mergeopt.study.events import Listener, TrialDone
from mergeopt.study.record import StudyRecord, Trial

Measure = Callable[[int, tuple[float, ...]], Scores | None]  # (branch, point) -> scores; None: NaN or infinity
Point = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: after `trials`, or at the end of the generation in which `tokens` or `seconds` are used up."""

    trials: int
    tokens: int | None = None
    seconds: float | None = None

    def spent(self, trials: Sequence[Trial]) -> bool:
        if self.tokens is not None and sum(trial.tokens for trial in trials) >= self.tokens:
            return True
        return self.seconds is not None and sum(trial.seconds for trial in trials) >= self.seconds


class Loop:
    """Runs one study's trials.

    Args:
        optimizer: Proposes.
        branches: Of the space; a request's branch indexes them.
        measure: Scores a point on the search split.
        reference: Turns scores into the objective.
        record: Remembers.
        batch: Proposals per generation.
        listener: Told of every finished trial.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        branches: Sequence[Branch],
        measure: Measure,
        reference: Reference,
        record: StudyRecord,
        *,
        batch: int,
        listener: Listener,
    ) -> None:
        self._optimizer, self._branches, self._measure = optimizer, branches, measure
        self._reference, self._record, self._batch, self._listener = reference, record, batch, listener
        self._known = {trial.number: trial for trial in record.trials}
        self._seen: dict[tuple[int, Point], Trial] = {}

    def run(self, budget: Budget) -> list[Trial]:
        """Runs to the end of the budget, or until the optimizer has nothing left to propose."""
        done: list[Trial] = []
        while len(done) < budget.trials and not budget.spent(done):
            numbers = range(len(done), min(len(done) + self._batch, budget.trials))
            if all(number in self._known for number in numbers):
                requests = [self._recorded(self._known[number]) for number in numbers]
            else:
                requests = [r for _ in numbers if (r := self._optimizer.ask()) is not None]
            trials = [self._trial(request) for request in requests]
            for request, trial in zip(requests, trials, strict=True):
                self._optimizer.tell(self._outcome(request, trial))
            done += trials
            if len(requests) < len(numbers):
                break
        return done

    def _trial(self, request: Request) -> Trial:
        branch = self._branches[request.branch]
        point = branch.rounded(request.point)
        trial = self._known.get(request.number)
        if trial is None:
            trial = self._run(request.number, request.branch, point)
            values = [t.value for t in [*self._seen.values(), trial] if t.value is not None and t.violation == 0]
            best = max(values, default=None)
            self._listener(TrialDone(trial.number, trial.value, best, trial.seconds, trial.params))
        self._seen.setdefault((request.branch, point), trial)
        return trial

    def _run(self, number: int, index: int, point: Point) -> Trial:
        branch = self._branches[index]
        self._record.start(number, branch.name, point)
        begun = time.perf_counter()
        params = {d.name: v for d, v in zip(branch.dimensions, point, strict=True)}
        twin = self._seen.get((index, point))
        if twin is not None:  # scored before: the same point has the same score
            trial = replace(twin, number=number, seconds=0.0, tokens=0)
        else:
            trial = self._scored(number, branch.name, params, self._measure(index, point), begun)
        self._record.finish(trial)
        return trial

    def _scored(self, number: int, branch: str, params: dict[str, float], scores: Scores | None, begun: float) -> Trial:
        if scores is None:
            return Trial(number, branch, params, None, state="failed", seconds=time.perf_counter() - begun)
        result = objective(scores, self._reference)
        return Trial(
            number=number,
            branch=branch,
            params=params,
            value=result.value,
            violation=result.violation,
            objectives=tuple(result.per_eval.values()),
            scores={score.name: score.value for score in scores},
            items={score.name: tuple(score.items.tolist()) for score in scores},
            seconds=time.perf_counter() - begun,
            tokens=scores.tokens,
        )

    def _recorded(self, trial: Trial) -> Request:
        """The request behind a recorded trial, as far as it matters for telling."""
        index = next(i for i, branch in enumerate(self._branches) if branch.name == trial.branch)
        point = tuple(trial.params[d.name] for d in self._branches[index].dimensions)
        return Request(trial.number, point, index)

    def _outcome(self, request: Request, trial: Trial) -> Outcome:
        point = tuple(trial.params[d.name] for d in self._branches[request.branch].dimensions)
        return Outcome(request, point, trial.value, trial.violation, items=trial.items, objectives=trial.objectives)
