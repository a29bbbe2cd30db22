"""NSGA-II: evolves a front of trade-offs between the evals, rather than one weighted score (Deb et al. 2002).

Steady state: every proposal is a child of the best of all points told so far (non-dominated rank, then crowding), by
simulated binary crossover and polynomial mutation; so it is a function of the history, and needs no generations.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mergeopt.optimizers.base import Outcome
from mergeopt.optimizers.cube import Vector
from mergeopt.optimizers.ranking import feasible, ranked
from mergeopt.optimizers.search import Point, Search

_POPULATION = 24
_ETA_CROSSOVER, _ETA_MUTATION = 15.0, 20.0  # spread of children around their parents; Deb's usual values
_STARTUP = 8


class Nsga2(Search):
    """Maximises `Outcome.objectives`, or the value where there are none."""

    def propose(self, number: int) -> Point | None:
        rng = self.rng(number)
        if len(self.told) < _STARTUP:
            return self.cube.outside(rng.random(len(self.dimensions)))
        parents = survivors(self.told, _POPULATION)
        # binary tournaments: survivors are sorted best first, so the smaller index wins
        first, second = (int(min(rng.integers(len(parents), size=2))) for _ in range(2))
        a, b = (self.cube.inside(parents[i].point) for i in (first, second))
        return self.cube.outside(_mutated(_crossed(a, b, rng), rng))


def survivors(outcomes: Sequence[Outcome], count: int) -> list[Outcome]:
    """The best `count`, best first: feasible ones by front and crowding, then infeasible by violation, then failed."""
    good = [o for o in outcomes if feasible(o)]
    rest = ranked(o for o in outcomes if not feasible(o))
    if not good:
        return rest[:count]
    scores = np.array([o.objectives or (o.value,) for o in good], dtype=np.float64)
    fronts, crowding = non_dominated(scores), np.empty(len(good))
    for front in set(fronts.tolist()):
        crowding[fronts == front] = crowded(scores[fronts == front])
    order = sorted(range(len(good)), key=lambda i: (fronts[i], -crowding[i]))
    return [*(good[i] for i in order), *rest][:count]


def non_dominated(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The front of each row of `scores`, shape (n, objectives), higher is better: 0 is dominated by nobody."""
    worse = (scores[:, None] <= scores[None]).all(-1) & (scores[:, None] < scores[None]).any(-1)  # [i, j]: j beats i
    fronts = np.full(len(scores), -1, dtype=np.int64)
    front = 0
    while (fronts < 0).any():
        left = fronts < 0
        fronts[left & ~(worse & left[None]).any(1)] = front
        front += 1
    return fronts


def crowded(scores: NDArray[np.float64]) -> Vector:
    """Crowding distance within one front: the ends are infinitely far from others."""
    distance = np.zeros(len(scores))
    for values in scores.T:
        order = np.argsort(values, kind="stable")
        width = values[order[-1]] - values[order[0]]
        distance[order[[0, -1]]] = math.inf
        if width > 0:
            distance[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / width
    return distance


def _crossed(a: Vector, b: Vector, rng: np.random.Generator) -> Vector:
    """One child by simulated binary crossover (Deb & Agrawal 1995); half the coordinates come from one parent whole."""
    u = rng.random(len(a))
    spread = np.where(u < 0.5, 2 * u, 1 / (2 - 2 * u)) ** (1 / (_ETA_CROSSOVER + 1))
    side = np.where(rng.random(len(a)) < 0.5, 1.0, -1.0)
    child = (a + b) / 2 + side * spread * (b - a) / 2
    return np.where(rng.random(len(a)) < 0.5, child, np.where(side > 0, b, a))


def _mutated(x: Vector, rng: np.random.Generator) -> Vector:
    """Polynomial mutation of one coordinate in expectation, at least one for sure."""
    d = len(x)
    chosen = rng.random(d) < 1 / d
    chosen[rng.integers(d)] = True
    u = rng.random(d)
    power = 1 / (_ETA_MUTATION + 1)
    step = np.where(u < 0.5, (2 * u) ** power - 1, 1 - (2 - 2 * u) ** power)
    return np.clip(np.where(chosen, x + step, x), 0.0, 1.0)
