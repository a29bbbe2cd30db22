"""Adam along the directions of one level: x = clip(origin + Bθ) in the unit cube.

Kingma & Ba 2015 on θ, with a warm-up and a cosine decay of the step (Loshchilov & Hutter 2017). A step is a share of
every range, whatever the loss's scale, so it needs no tuning from one merge to the next.
"""

import math

import numpy as np

from mergeopt.optimizers.cube import Vector
from mergeopt.space.levels import Level

_STEP = 0.03  # of each range
_BETAS = 0.9, 0.99
_WARM_UP = 8
_MEMORY = 0.9  # of the average over steps


class Directions:
    """The columns B of a level, shape (d, m), sparse."""

    def __init__(self, level: Level) -> None:
        entries = [(i, j, share) for j, column in enumerate(level.columns) for i, share in column]
        self._rows = np.array([i for i, _, _ in entries], dtype=np.int64)
        self._columns = np.array([j for _, j, _ in entries], dtype=np.int64)
        self._shares = np.array([share for _, _, share in entries], dtype=np.float64)
        self.count = len(level.columns)

    def step(self, theta: Vector, d: int) -> Vector:
        """Bθ, shape (d,)."""
        out = np.zeros(d)
        np.add.at(out, self._rows, self._shares * theta[self._columns])
        return out

    def along(self, gradients: Vector) -> Vector:
        """Gradients by unit coordinates, shape (n, d), as derivatives by θ, shape (n, m)."""
        out = np.zeros((self.count, len(gradients)))
        np.add.at(out, self._columns, self._shares[:, None] * gradients.T[self._rows])
        return out.T


class Descent:
    """Goes down from `origin`, shape (d,), in at most `steps` steps."""

    def __init__(self, directions: Directions, origin: Vector, steps: int) -> None:
        self._directions, self._origin, self.steps, self.taken, self._since = directions, origin, steps, 0, 0
        self._size, self._moves = _STEP, 0
        self._theta, self._first, self._second = (np.zeros(directions.count) for _ in range(3))
        self._sum, self._weight = np.zeros(len(origin)), 0.0

    @property
    def average(self) -> Vector:
        """Where it stood of late, on average: mini-batch noise moves x about a valley, whose floor is in the middle."""
        return self._sum / self._weight if self._weight else self.x

    @property
    def x(self) -> Vector:
        """Where it stands."""
        return np.clip(self._origin + self._directions.step(self._theta, len(self._origin)), 0.0, 1.0)

    @property
    def over(self) -> bool:
        return self.taken >= self.steps

    def step(self, gradient: Vector) -> Vector:
        """Moves against `gradient`, shape (d,), of the loss by unit coordinates; returns what bounds leave of it."""
        x = self.x
        free = np.where(((x <= 0) & (gradient > 0)) | ((x >= 1) & (gradient < 0)), 0.0, gradient)
        g = self._directions.along(free[None])[0]
        size = self._size * self._decay() * min(1.0, (self._moves + 1) / _WARM_UP)
        self.taken, self._moves = self.taken + 1, self._moves + 1
        self._first += (1 - _BETAS[0]) * (g - self._first)
        self._second += (1 - _BETAS[1]) * (g * g - self._second)
        first, second = self._first / (1 - _BETAS[0] ** self._moves), self._second / (1 - _BETAS[1] ** self._moves)
        self._theta -= size * first / np.maximum(np.sqrt(second), 1e-300)
        self._sum, self._weight = _MEMORY * self._sum + self.x, _MEMORY * self._weight + 1
        return free

    def hurry(self) -> None:
        """Gives up half the steps that are left: the size falls to 0 in the other half, from where it is."""
        self._size, self._since = self._size * self._decay(), self.taken
        self.steps = self.taken + (self.steps - self.taken) // 2

    def _decay(self) -> float:
        return (1 + math.cos(math.pi * (self.taken - self._since) / max(1, self.steps - self._since))) / 2

    def restart(self, origin: Vector, *, size: float) -> None:
        """Goes on from `origin` without momentum, with `size` times the step; counts as a step."""
        self._origin, self._size, self._moves, self.taken = origin, self._size * size, 0, self.taken + 1
        self._theta, self._first, self._second = (np.zeros(self._directions.count) for _ in range(3))
        self._sum, self._weight = np.zeros(len(origin)), 0.0


def signal(gradients: Vector) -> float:
    """How far the mean of `gradients`, shape (n, m), stands out of their noise, in standard deviations.

    Σ_{i≠j} gᵢ·gⱼ, which is 0 on average where there is only noise, over its standard deviation there (Chen & Qin 2010,
    "A two-sample test for high-dimensional data"): unlike Hotelling's T² it allows more directions than gradients.
    Each direction is scaled by its root mean square.
    """
    scaled = gradients / np.maximum(np.sqrt(np.mean(gradients**2, axis=0)), 1e-300)
    products = scaled @ scaled.T
    np.fill_diagonal(products, 0.0)
    spread = math.sqrt(2 * float((products**2).sum()))
    return float(products.sum()) / spread if spread > 0 else 0.0
