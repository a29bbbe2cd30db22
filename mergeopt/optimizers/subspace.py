"""A few coordinates around a solution: x = x* + V·diag(s)·z in the unit cube, z in [−1, 1].

V holds the eigenvectors of the Fisher with the largest eigenvalues, the directions that matter; a move by s along any
of them costs the same loss, to second order.
"""

from collections.abc import Sequence

import numpy as np

from mergeopt.optimizers.cube import Cube, Vector
from mergeopt.optimizers.search import Point
from mergeopt.space.dimension import Dimension

LONGEST = 0.25  # of a range: further out second order says nothing


class Subspace:
    """The map between z, shape (k,), and the points of a branch.

    Args:
        cube: Of the branch.
        centre: x*, a point.
        vectors: V, shape (d, k).
        costs: The loss that a move of `LONGEST` along each costs, shape (k,), positive.
        harm: The loss that a move by z = 1 may cost.
    """

    def __init__(self, cube: Cube, centre: Point, vectors: Vector, costs: Vector, harm: float) -> None:
        self._cube, self._centre = cube, cube.inside(centre)
        self._vectors, self._lengths = vectors, LONGEST * np.minimum(1.0, np.sqrt(harm / costs))
        self.dimensions = tuple(Dimension(f"z{i}", -1.0, 1.0, 0.0) for i in range(len(costs)))

    def point(self, z: Sequence[float]) -> Point:
        """The branch's point at z; bounds cut it off."""
        return self._cube.outside(self._centre + self._vectors @ (self._lengths * np.asarray(z)))

    def coordinates(self, point: Point) -> Point:
        """z of a point: its projection."""
        z = self._vectors.T @ (self._cube.inside(point) - self._centre) / self._lengths
        return tuple(float(value) for value in np.clip(z, -1.0, 1.0))
