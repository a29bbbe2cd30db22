"""The search of one branch: what every optimizer shares, so that a new one writes only `propose`.

Proposals are numbered from 0: first the starts, then whatever `propose` gives. A search may also be told an outcome
it never asked for in this process, if it has the next number: a study is replayed without the work of asking.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.cube import Cube
from mergeopt.space.dimension import Dimension

Point = tuple[float, ...]


def seed_of(seed: int, *address: int) -> int:
    """A 32-bit seed for one address, e.g. (branch, number): independent streams from one study seed."""
    return int(np.random.SeedSequence([seed, *address]).generate_state(1)[0])


class Search(ABC):
    """Proposes points of one branch.

    Args:
        dimensions: The branch's dimensions; may be none.
        seed: Of this branch.
        trials: How many proposals to plan for (grid, `auto`); asking for more is allowed.
        starts: Points proposed first, in this order; never empty (the branch's init is the last of them).
        batch: How many proposals are asked for before their outcomes are told.
    """

    def __init__(
        self, dimensions: Sequence[Dimension], *, seed: int, trials: int, starts: Sequence[Point], batch: int
    ) -> None:
        self.dimensions = tuple(dimensions)
        self.seed, self.trials, self.starts, self.batch = seed, trials, tuple(starts), batch
        self.cube = Cube(dimensions)
        self.asked: list[Point] = []  # by number
        self.told: list[Outcome] = []  # in the order of their numbers

    @abstractmethod
    def propose(self, number: int) -> Point | None:
        """Proposal `number`: a pure function of the seed, `number`, `asked` and `told`. None: nothing is left."""

    def learn(self, outcome: Outcome) -> None:  # noqa: B027  (a search that keeps no state of its own needs nothing here)
        """Called once per outcome, after it was added to `told`."""

    def mean(self) -> Point | None:
        """The centre of the search's belief, where it has one that is better than the mean of its best points."""
        return None

    def request(self, number: int, point: Point) -> Request:
        """How `point` is to be measured; an optimizer that wants more than a value says so here."""
        return Request(number=number, point=point)

    def rng(self, number: int) -> np.random.Generator:
        """Fresh random numbers for proposal `number`."""
        return np.random.default_rng(seed_of(self.seed, number))

    def ask(self) -> Request | None:
        number = len(self.asked)
        if number < len(self.starts):
            point: Point | None = self.starts[number]
        elif not self.dimensions:
            point = None
        else:
            point = self.propose(number)
        if point is None:
            return None
        self.asked.append(point)
        return self.request(number, point)

    def tell(self, outcome: Outcome) -> None:
        number = outcome.request.number
        if number == len(self.asked):
            self.asked.append(outcome.request.point)
        if number != len(self.told):
            raise ValueError(f"outcome {number} was told out of order: {len(self.told)} is next")
        self.told.append(outcome)
        self.learn(outcome)
