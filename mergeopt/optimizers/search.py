"""The search of one branch: what every optimizer shares, so that a new one writes only `propose`.

Proposals are numbered from 0: first the starts, then whatever `propose` gives. A search may also be told an outcome
it never asked for in this process, if it has the next number: a study is replayed without the work of asking.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.cube import Cube, Vector
from mergeopt.space.dimension import Dimension

Point = tuple[float, ...]


def seed_of(seed: int, *address: int) -> int:
    """A 32-bit seed for one address, e.g. (branch, number): independent streams from one study seed."""
    return int(np.random.SeedSequence([seed, *address]).generate_state(1)[0])


@dataclass(frozen=True, eq=False)
class Importance:
    """How much each dimension matters near the solution, in unit coordinates, shape (d,).

    `signal` is the mean gradient in standard errors: above 2, more steps or other bounds would move it. `fisher` is the
    mean squared gradient: how much the loss minds a move.
    """

    signal: Vector
    fisher: Vector


class Search:
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
        self.tried: list[Outcome] = []  # those of `told` that are trials
        self.trials_asked = 0

    def propose(self, number: int) -> Point | None:  # noqa: ARG002  (subclasses use it)
        """Proposal `number`: a pure function of the seed, `number`, `asked` and `told`.

        None: nothing until more is told, or ever. A search proposes at least its starts.
        """
        return None

    def request(self, number: int) -> Request | None:
        """Request `number`: a trial of a start or of what `propose` gives; to ask for more than a value, override."""
        if number < len(self.starts):
            return Request(number, self.starts[number])
        point = self.propose(number) if self.dimensions else None
        return None if point is None else Request(number, point)

    def learn(self, outcome: Outcome) -> None:
        """Called once per outcome, after it was added to `told`."""

    def mean(self) -> Point | None:
        """The centre of the search's belief, where it has one that is better than the mean of its best points."""
        return None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What went wrong on the way and was survived."""
        return ()

    def importance(self) -> Importance | None:
        """What matters near the solution; None where nothing is known of it."""
        return None

    def rng(self, number: int) -> np.random.Generator:
        """Fresh random numbers for proposal `number`."""
        return np.random.default_rng(seed_of(self.seed, number))

    def ask(self) -> Request | None:
        request = self.request(len(self.asked))
        if request is not None:
            self._note(request)
        return request

    def tell(self, outcome: Outcome) -> None:
        number = outcome.request.number
        if number == len(self.asked):
            self._note(outcome.request)
        if number != len(self.told):
            raise ValueError(f"outcome {number} was told out of order: {len(self.told)} is next")
        self.told.append(outcome)
        if outcome.request.split == "search":
            self.tried.append(outcome)
        self.learn(outcome)

    def _note(self, request: Request) -> None:
        self.asked.append(request.point)
        self.trials_asked += request.split == "search"
