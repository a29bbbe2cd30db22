"""CMA-ES: adapts a Gaussian to where good points are; the choice for many dimensions and noisy scores.

Hansen & Ostermeier 2001, in the unit cube; separable (Ros & Hansen 2008) where a full covariance could not be learned
from the trials a merge can afford. Only ranks are used: infeasible and failed trials fit in, with no penalty to tune.
"""

import math
from collections.abc import Sequence

import numpy as np
from cmaes import CMA, SepCMA

from mergeopt.optimizers.base import Outcome
from mergeopt.optimizers.cube import Vector
from mergeopt.optimizers.ranking import goodness
from mergeopt.optimizers.search import Point, Search, seed_of
from mergeopt.space.dimension import Dimension

# A fifth of each range: one standard deviation of the recipes people publish around the uniform merge. Larger steps
# leave the good valley in high dimensions (random points score below the uniform merge), smaller ones need more trials.
_SIGMA = 0.2
_SEPARABLE_ABOVE = 64


class CmaEs(Search):
    """CMA-ES started at the first start, with a population of whole batches."""

    def __init__(
        self, dimensions: Sequence[Dimension], *, seed: int, trials: int, starts: Sequence[Point], batch: int
    ) -> None:
        super().__init__(dimensions, seed=seed, trials=trials, starts=starts, batch=batch)
        d = len(self.dimensions)
        if d == 0:
            return
        kind = CMA if d <= _SEPARABLE_ABOVE else SepCMA
        self._model = kind(
            mean=self.cube.inside(self.starts[0]),
            sigma=_SIGMA,
            bounds=np.array([[0.0, 1.0]] * d),
            n_max_resampling=10,  # in many dimensions hardly any sample is inside: then clipping repairs it
            population_size=4 + math.floor(3 * math.log(d)),
            seed=0,
        )
        self._waiting: list[Outcome] = []

    def propose(self, number: int) -> Point | None:
        self._model.reseed_rng(seed_of(self.seed, number))
        return self.cube.outside(self._model.ask())

    def learn(self, outcome: Outcome) -> None:
        if not self.dimensions:
            return
        self._waiting.append(outcome)
        if len(self._waiting) < self._model.population_size:
            return
        order = sorted(self._waiting, key=goodness, reverse=True)
        self._model.tell([(self._unit(o), float(rank)) for rank, o in enumerate(order)])
        self._waiting = []

    def _unit(self, outcome: Outcome) -> Vector:
        """Unit coordinates of an outcome; a start is shortened to where the Gaussian could have drawn it.

        Starts did not come from the Gaussian and may lie far out; at √d + 2d/(d+2) standard deviations they still pull
        the mean, without tearing the covariance (Hansen 2011, "Injecting external solutions into CMA-ES").
        """
        unit = self.cube.inside(outcome.point)
        if outcome.request.number >= len(self.starts):
            return unit
        d = len(unit)
        step = unit - self._model.mean
        longest = _SIGMA * (math.sqrt(d) + 2 * d / (d + 2))
        return np.asarray(self._model.mean + step * min(1.0, longest / max(float(np.linalg.norm(step)), 1e-12)))

    def mean(self) -> Point | None:
        if not self.dimensions or self._model.generation == 0:
            return None
        return self.cube.outside(self._model.mean)
