"""The unit cube: every dimension as a number in [0, 1], logarithmic where the dimension is.

Optimizers work here, so that one step size means the same share of every range.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mergeopt.space.dimension import Dimension

Vector = NDArray[np.float64]


class Cube:
    """The map between the points of one branch, shape (d,), and the unit cube."""

    def __init__(self, dimensions: Sequence[Dimension]) -> None:
        self._low = np.array([d.low for d in dimensions], dtype=np.float64)
        self._high = np.array([d.high for d in dimensions], dtype=np.float64)
        self._log = np.array([d.log for d in dimensions], dtype=bool)
        self._floor = self._transformed(self._low)
        width = self._transformed(self._high) - self._floor
        self._fixed = width <= 0
        self._width = np.where(self._fixed, 1.0, width)

    def _transformed(self, values: Vector) -> Vector:
        return np.where(self._log, np.log(np.where(self._log, values, 1.0)), values)

    def inside(self, point: Sequence[float]) -> Vector:
        """Unit coordinates of `point`, clipped into [0, 1]; 0.5 where a range has no width."""
        values = np.clip(np.asarray(point, dtype=np.float64), self._low, self._high)
        unit = (self._transformed(values) - self._floor) / self._width
        return np.where(self._fixed, 0.5, np.clip(unit, 0.0, 1.0))

    def outside(self, unit: Vector) -> tuple[float, ...]:
        """The point at unit coordinates `unit`, never outside the bounds (exp(log x) may be, by one ulp)."""
        values = self._floor + np.where(self._fixed, 0.0, np.clip(unit, 0.0, 1.0)) * self._width
        values = np.where(self._log, np.exp(np.where(self._log, values, 0.0)), values)
        return tuple(float(v) for v in np.clip(values, self._low, self._high))

    def slopes(self, point: Sequence[float]) -> Vector:
        """d point / d unit at `point`, by which a gradient becomes one in unit coordinates; 0 without width."""
        return np.where(self._fixed, 0.0, self._width) * np.where(self._log, np.asarray(point, dtype=np.float64), 1.0)
