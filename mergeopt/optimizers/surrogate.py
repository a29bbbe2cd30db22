"""Optuna's model-based samplers behind our seam: an in-memory study per branch, a fresh sampler per proposal.

A fresh sampler, seeded from (seed, number), has no hidden state, so a resumed search proposes what an unbroken one
would. Points that were asked for and not yet told are running trials: the samplers keep away from them.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from mergeopt.optimizers.base import Outcome
from mergeopt.optimizers.ranking import failed
from mergeopt.optimizers.search import Point, Search, seed_of
from mergeopt.space.dimension import Dimension

_NEAR = 0.2  # standard deviation of a first point around the start, in units of each range
_STARTUP = 8  # outcomes before a model is fitted: one generation


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna logs every new study, and that GP is slower without greenlet: neither is the user's business."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class Surrogate(Search, ABC):
    """A search through one of Optuna's samplers; subclasses say which, by name and with its options."""

    def __init__(
        self, dimensions: Sequence[Dimension], *, seed: int, trials: int, starts: Sequence[Point], batch: int
    ) -> None:
        super().__init__(dimensions, seed=seed, trials=trials, starts=starts, batch=batch)
        self._names = [f"x{i:04d}" for i in range(len(self.dimensions))]
        self._space: dict[str, BaseDistribution] = {
            name: FloatDistribution(d.low, d.high, log=d.log)
            for name, d in zip(self._names, self.dimensions, strict=True)
        }
        self._constrained = False
        self._begin()

    def _begin(self) -> None:
        with _quiet():
            self._study = optuna.create_study(direction="maximize")
        self._running: dict[int, int] = {}  # our number -> Optuna's
        self._usable = 0  # outcomes a model can learn from

    @abstractmethod
    def sampler(self, seed: int) -> BaseSampler:
        """A fresh sampler."""

    def propose(self, number: int) -> Point | None:
        if self._usable < _STARTUP:
            return self._first(number)
        self._note_pending()
        self._study.sampler = self.sampler(seed_of(self.seed, number))
        with _quiet():
            trial = self._study.ask(fixed_distributions=self._space)
        self._running[number] = trial.number
        return tuple(float(trial.params[name]) for name in self._names)

    def _first(self, number: int) -> Point:
        """Half of the first points near the first start, where merges are good; half anywhere, to look further."""
        rng, d = self.rng(number), len(self.dimensions)
        unit = rng.random(d) if number % 2 else self.cube.inside(self.starts[0]) + rng.normal(0.0, _NEAR, d)
        return self.cube.outside(unit)

    def _note_pending(self) -> None:
        for number in range(len(self.told), len(self.asked)):
            if number not in self._running:
                self._running[number] = len(self._study.get_trials(deepcopy=False))
                params = dict(zip(self._names, self.asked[number], strict=True))
                self._study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=self._space))

    def learn(self, outcome: Outcome) -> None:
        if outcome.violation > 0 and not self._constrained:
            # A constraint costs the samplers a model of its own, and they want it on every trial or on none.
            self._constrained = True
            self._begin()
            for earlier in self.told[:-1]:
                self._add(earlier)
        running = self._running.pop(outcome.request.number, None)
        if running is not None:  # what was evaluated is not quite what was asked: close the one, add the other
            self._study.tell(running, state=TrialState.FAIL)
        self._add(outcome)

    def _add(self, outcome: Outcome) -> None:
        if failed(outcome):
            return
        self._study.add_trial(
            create_trial(
                value=outcome.value,
                params=dict(zip(self._names, outcome.point, strict=True)),
                distributions=self._space,
                constraints={"violation": outcome.violation} if self._constrained else None,
            )
        )
        self._usable += 1
