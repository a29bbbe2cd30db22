"""Learning by gradient: from the best start down a smooth loss, then what was found is tried on the real objective.

Every start is tried, and measured on the held-out lessons; `Growth` goes down from the best of them, one mini-batch
gradient at a time; the best point, and the best of every coarser level that paid, are tried in the end. The state
changes only by what is told, so a search is replayed by telling.
"""

import math
from collections.abc import Sequence

import numpy as np

from mergeopt.optimizers.base import Outcome, Request, Want
from mergeopt.optimizers.cube import Vector
from mergeopt.optimizers.growth import Growth, loss_gradient
from mergeopt.optimizers.heldout import HeldOut
from mergeopt.optimizers.ranking import feasible
from mergeopt.optimizers.search import Importance, Point, Search
from mergeopt.space.dimension import Dimension
from mergeopt.space.levels import Level

_SOLUTIONS = 4
_WINDOW = 60  # gradients that speak for the solution's surroundings


class Gradient(Search):
    """Adam on growing levels.

    Args:
        levels: Directions in the unit cube, coarse to fine.
        steps: Gradients in all.
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        *,
        seed: int,
        trials: int,
        starts: Sequence[Point],
        batch: int,
        levels: Sequence[Level],
        steps: int,
    ) -> None:
        super().__init__(dimensions, seed=seed, trials=trials, starts=starts, batch=batch)
        self._levels, self._steps = tuple(levels), steps
        self._begun = len(self.starts) * (2 if self.dimensions else 1)  # requests about starts
        self._growth: Growth | None = None
        self._solutions: tuple[Point, ...] | None = None if self.dimensions else ()
        self._ended = self._begun  # requests before the solutions
        self._gradients: list[Vector] = []

    @property
    def best(self) -> HeldOut | None:
        """The point of the least held-out loss, once starts were measured."""
        return self._growth.best if self._growth else None

    @property
    def remarks(self) -> tuple[str, ...]:
        return self._growth.remarks if self._growth else ()

    @property
    def finished(self) -> bool:
        """Whether everything was proposed and told."""
        return self._solutions is not None and len(self.told) >= self._ended + len(self._solutions)

    def importance(self) -> Importance | None:
        """Of every dimension, by the last gradients; None before there are enough."""
        if len(self._gradients) < 3:
            return None
        gradients = np.array(self._gradients)
        error = gradients.std(axis=0, ddof=1) / math.sqrt(len(gradients))
        mean = np.abs(gradients.mean(axis=0))
        return Importance(np.divide(mean, error, out=np.zeros_like(mean), where=error > 0), (gradients**2).mean(axis=0))

    def spectrum(self) -> tuple[Vector, Vector]:
        """Eigenvalues, shape (n,), falling, and eigenvectors, shape (d, n), of the Fisher Σggᵀ/n of the last gradients.

        Of mini-batch gradients: smaller than that of single lessons by the size of the mini-batch.
        """
        if not self._gradients:
            return np.zeros(0), np.zeros((len(self.dimensions), 0))
        _, values, vectors = np.linalg.svd(np.array(self._gradients), full_matrices=False)
        return values**2 / len(self._gradients), vectors.T

    def mean(self) -> Point | None:
        """The best point, if it was tried and broke no constraint."""
        return next((o.point for o in self.tried if self.best and o.point == self.best.point and feasible(o)), None)

    def request(self, number: int) -> Request | None:
        if number < len(self.starts) or not self.dimensions:
            return super().request(number)
        if number < self._begun:
            return _lesson(number, self.starts[number - len(self.starts)], "items")
        if self._solutions is not None:
            rest = self._solutions[number - self._ended :]
            return Request(number, rest[0]) if rest else None
        if self._growth is None or len(self.told) < number:
            return None
        want: Want = "items" if self._growth.measuring else "gradient"
        return _lesson(number, self.cube.outside(self._growth.x), want, self._growth.level)

    def learn(self, outcome: Outcome) -> None:
        number = outcome.request.number
        if number < self._begun - 1 or self._solutions is not None:
            return
        if self._growth is None:
            self._begin()
        else:
            gradient = loss_gradient(outcome, self.cube) if "gradient" in outcome.request.wants else None
            if gradient is not None:
                self._gradients = [*self._gradients[1 - _WINDOW :], gradient]
            self._growth.learn(outcome)
        if self._growth is None or self._growth.done:
            self._end()

    def _begin(self) -> None:
        measured = [m for o in self.told[len(self.starts) :] if (m := HeldOut.of(o)) is not None]
        if measured:
            start = min(measured, key=lambda m: m.mean)
            self._growth = Growth(self._levels, self.cube, start, self._steps)

    def _end(self) -> None:
        found = [self._growth.best.point, *reversed(self._growth.accepted)] if self._growth else []
        known = {o.point for o in self.tried}
        self._solutions = tuple(p for p in dict.fromkeys(found) if p not in known)[:_SOLUTIONS]
        self._ended = len(self.told)


def _lesson(number: int, point: Point, want: Want, level: str = "") -> Request:
    return Request(number, point, wants=frozenset({want}), split="calibrate", level=level)
