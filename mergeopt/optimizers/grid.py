"""A full factorial grid in a seeded, shuffled order: what people do by hand, and stoppable at any time."""

import math
from collections.abc import Sequence

import numpy as np

from mergeopt.errors import InputError
from mergeopt.optimizers.search import Point, Search
from mergeopt.space.dimension import Dimension, rounded

_MOST = 1_000_000


def levels(dimensions: int, trials: int) -> list[int]:
    """Levels per dimension, at least 2: as even as possible, with a product of at most `trials` where that can be.

    Raises:
        InputError: Even two levels each make more points than can be listed.
    """
    if 2**dimensions > _MOST:
        raise InputError(
            f"a grid over {dimensions} dimensions has at least 2^{dimensions} points",
            where="optimize.method",
            remedy="use fewer holes, or method cmaes",
        )
    each = max(2, int(trials ** (1 / dimensions) + 1e-9))
    counts = [each] * dimensions
    for i in range(dimensions):  # the budget that is left buys the first dimensions one level more
        if math.prod(counts) // counts[i] * (counts[i] + 1) <= trials:
            counts[i] += 1
    return counts


class Grid(Search):
    """Evenly spaced levels from bound to bound; starts that lie on the grid are not measured again."""

    def __init__(
        self, dimensions: Sequence[Dimension], *, seed: int, trials: int, starts: Sequence[Point], batch: int
    ) -> None:
        super().__init__(dimensions, seed=seed, trials=trials, starts=starts, batch=batch)
        free = [i for i, d in enumerate(self.dimensions) if d.low < d.high]
        self._counts = [1] * len(self.dimensions)
        for i, count in zip(free, levels(len(free), trials - len(self.starts)) if free else [], strict=True):
            self._counts[i] = count
        order = np.random.default_rng(seed).permutation(math.prod(self._counts))
        taken = {self._rounded(p) for p in self.starts}
        first = (self._point(int(i)) for i in order[: max(trials, 2)])
        self._points = [p for p in first if self._rounded(p) not in taken]

    def _rounded(self, point: Point) -> Point:
        return tuple(rounded(x, d.low, d.high) for x, d in zip(point, self.dimensions, strict=True))

    def _point(self, index: int) -> Point:
        unit = np.array(
            [0.5 if n == 1 else k / (n - 1) for n, k in zip(self._counts, self._digits(index), strict=True)]
        )
        return self.cube.outside(unit)

    def _digits(self, index: int) -> tuple[int, ...]:
        return tuple(int(k) for k in np.unravel_index(index, self._counts))

    def propose(self, number: int) -> Point | None:
        i = number - len(self.starts)
        return self._points[i] if i < len(self._points) else None
