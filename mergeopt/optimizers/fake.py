"""A scripted optimizer: proposes the points it was given and remembers what it was told. For tests of a study."""

from collections.abc import Iterable, Sequence

from mergeopt.optimizers.base import Outcome, Request


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
