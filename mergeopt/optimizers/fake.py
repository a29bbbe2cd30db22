"""Stand-ins for tests of a study and of optimizers: a scripted optimizer, and a study with a known optimum."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergeopt.optimizers.base import Outcome, Request

Matrix = NDArray[np.float64]


class FakeOptimizer:
    """Asks for `points`, in order, then for nothing more; `told` holds every outcome."""

    def __init__(self, points: Iterable[Sequence[float]], *, branch: int = 0) -> None:
        self._points = [tuple(point) for point in points]
        self._branch, self._asked = branch, 0
        self.told: list[Outcome] = []

    def ask(self) -> Request | None:
        if self._asked == len(self._points):
            return None
        request = Request(number=self._asked, point=self._points[self._asked], branch=self._branch)
        self._asked += 1
        return request

    def tell(self, outcome: Outcome) -> None:
        self._asked = max(self._asked, outcome.request.number + 1)
        self.told.append(outcome)

    def consensus(self) -> None:
        """A script believes nothing."""


@dataclass(frozen=True)
class FakeStudy:
    """Answers every kind of request from lessons whose losses are bowls around their own optima.

    Lesson i loses Σⱼ curvatureⱼ·(xⱼ − optimaᵢⱼ)²; a trial's value is what `trial` says, else minus the loss around the
    mean of all optima. Points are rounded as a study rounds them.

    Attributes:
        optima: Shape (lessons, d). The first half is trained on, the second held out, of two domains in turns.
        curvature: Shape (d,) or (1,).
        minibatch: Lessons per gradient.
        trial: Measures requests on split "search".
    """

    optima: Matrix
    curvature: Matrix
    minibatch: int = 8
    trial: Callable[[Request], Outcome] | None = None

    def __call__(self, request: Request) -> Outcome:
        point = tuple(float(f"{x:.4g}") for x in request.point)
        half = len(self.optima) // 2
        if request.split == "search":
            if self.trial is not None:
                return self.trial(request)
            return Outcome(request, point, -float(self._losses(point, self.optima.mean(axis=0)[None])[0]))
        if "items" in request.wants:
            losses = self._losses(point, self.optima[half:])
            items = {"even": tuple(losses[::2].tolist()), "odd": tuple(losses[1::2].tolist())}
            return Outcome(request, point, -float(np.mean([np.mean(v) for v in items.values()])), items=items)
        rng = np.random.default_rng(request.number)
        lessons = self.optima[rng.choice(half, size=min(self.minibatch, half), replace=False)]
        gradient = -2 * self.curvature * (np.array(point) - lessons.mean(axis=0))
        return Outcome(request, point, -float(self._losses(point, lessons).mean()), gradient=tuple(gradient.tolist()))

    def _losses(self, point: Sequence[float], optima: Matrix) -> Matrix:
        losses: Matrix = (self.curvature * (np.array(point) - optima) ** 2).sum(axis=1)
        return losses
