"""The choices of a space: one continuous search per branch, and a tournament that decides which branch to ask.

Every branch first gets its starts and an equal share; then the better half goes on, and so on until one is left
(successive halving, Karnin et al. 2013; Jamieson & Talwalkar 2016). So no optimizer ever sees a category, and who is
asked next is a pure function of what was asked and told before. Shares and merit are a matter of trials: requests on
the calibrate split neither count nor compete.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mergeopt.errors import InputError
from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.ranking import ranked, standing
from mergeopt.optimizers.search import Importance, Point, Search, seed_of
from mergeopt.space.dimension import Dimension

_LEAST = 4  # trials before a branch can be dropped


@dataclass(frozen=True, slots=True)
class Start:
    """A known point to measure first: a published recipe, the uniform average."""

    branch: int
    point: Point


class Branches:
    """An `Optimizer` over several branches, each with a search of its own; see `mergeopt.optimizers.create`."""

    def __init__(
        self,
        makes: Sequence[Callable[..., Search]],
        branches: Sequence[Sequence[Dimension]],
        *,
        seed: int,
        trials: int,
        starts: Sequence[Start],
        batch: int,
    ) -> None:
        for start in starts:
            _check(start, branches)
        inits = [Start(i, tuple(d.init for d in dimensions)) for i, dimensions in enumerate(branches)]
        first = list(dict.fromkeys([*starts, *inits]))
        self._first = [s.branch for s in first]
        self._quotas = quotas(len(branches), trials, max(self._first.count(i) for i in range(len(branches))))
        self._searches = [
            makes[i](
                dimensions,
                seed=seed_of(seed, i),
                trials=min(trials, self._quotas[-1]),
                starts=[s.point for s in first if s.branch == i],
                batch=batch,
            )
            for i, dimensions in enumerate(branches)
        ]
        self._numbers: list[tuple[int, int]] = []  # our number -> (branch, number in the branch)
        self._finished: set[int] = set()  # branches with nothing left to propose

    def ask(self) -> Request | None:
        waiting: set[int] = set()  # branches that first want to be told what is outstanding
        while len(self._finished | waiting) < len(self._searches):
            branch = self._next(self._finished | waiting)
            search = self._searches[branch]
            request = search.ask()
            if request is not None:
                number = len(self._numbers)
                self._numbers.append((branch, request.number))
                return replace(request, number=number, branch=branch)
            (self._finished if len(search.told) == len(search.asked) else waiting).add(branch)
        return None

    def tell(self, outcome: Outcome) -> None:
        request = outcome.request
        if request.number == len(self._numbers):  # replayed, not asked for in this process
            self._numbers.append((request.branch, len(self._searches[request.branch].asked)))
        branch, number = self._numbers[request.number]
        self._searches[branch].tell(replace(outcome, request=replace(request, number=number, branch=0)))

    def _next(self, closed: set[int]) -> int:
        """The branch to ask now, of those that are not closed."""
        asked = [search.trials_asked for search in self._searches]
        first = self._first[len(self._numbers) : len(self._numbers) + 1]
        if first and first[0] not in closed:
            return first[0]
        alive = list(range(len(self._searches)))
        for round_, quota in enumerate(self._quotas, start=1):
            due = [i for i in alive if asked[i] < quota and i not in closed]
            if due:
                return min(due, key=lambda i: asked[i])
            if round_ < len(self._quotas):
                alive = self._better_half(alive, quota)
        open_ = [i for i in alive if i not in closed] or [i for i in range(len(self._searches)) if i not in closed]
        return min(open_, key=lambda i: asked[i])

    def _better_half(self, alive: list[int], quota: int) -> list[int]:
        """Judged on each branch's first `quota` trials, so that later ones do not reopen the decision."""
        by_standing = sorted(alive, key=lambda i: standing(self._searches[i].tried[:quota]), reverse=True)
        return sorted(by_standing[: math.ceil(len(alive) / 2)])

    @property
    def remarks(self) -> tuple[str, ...]:
        """What went wrong on the way and was survived."""
        return tuple(text for search in self._searches for text in search.remarks)

    def importance(self) -> tuple[int, Importance] | None:
        """The best branch, and what matters there; None where nothing is known of it."""
        best = self._best()
        found = self._searches[best].importance()
        return None if found is None else (best, found)

    def _best(self) -> int:
        return max(range(len(self._searches)), key=lambda i: standing(self._searches[i].tried))

    def consensus(self) -> tuple[int, Point] | None:
        """(branch, point) where the best branch believes the optimum to be; often better than the best-scored point.

        A single best score is inflated by noise; a mean of good points is not. CMA-ES gives the mean of its Gaussian,
        the others the mean of their ten best of a hundred. None before anything was measured.
        """
        best = self._best()
        search = self._searches[best]
        if standing(search.tried)[0] == 0:
            return None
        top = ranked(search.tried)[: math.ceil(len(search.tried) / 10)]
        centre = search.mean() or search.cube.outside(
            sum((search.cube.inside(o.point) for o in top[1:]), search.cube.inside(top[0].point)) / len(top)
        )
        return best, centre


def quotas(branches: int, trials: int, starts: int) -> list[int]:
    """Cumulative trials per surviving branch at which the worse half is dropped; the last is the winner's total.

    Every round has the same budget, shared by the branches still in it: `trials` / rounds.
    """
    rounds = math.ceil(math.log2(branches)) + 1
    total, alive, out = 0.0, branches, []
    for _ in range(rounds):
        total += trials / rounds / alive
        out.append(max(_LEAST, starts, math.floor(total)))
        alive = math.ceil(alive / 2)
    return out


def _check(start: Start, branches: Sequence[Sequence[Dimension]]) -> None:
    if not 0 <= start.branch < len(branches) or len(start.point) != len(branches[start.branch]):
        raise ValueError(f"{start} does not fit {len(branches)} branches")
    for value, d in zip(start.point, branches[start.branch], strict=True):
        if not d.low <= value <= d.high:
            raise InputError(
                f"the start has {d.name} = {value:g}, outside its range [{d.low:g}, {d.high:g}]",
                where="optimize.start",
                remedy="widen the range, or leave this start out",
            )
