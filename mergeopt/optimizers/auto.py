"""`auto`: down the gradient where there is one, then a black box on the real objective in the directions that matter.

The gradient's loss is smooth but only a proxy; the objective is what counts but noisy. So the gradient finds the valley
in all dimensions, and a search over the few directions that the loss minds most ends on the objective itself. Without
gradients, a black box alone, chosen from the dimensions and the budget.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.gradient import Gradient
from mergeopt.optimizers.heldout import HeldOut
from mergeopt.optimizers.search import Importance, Point, Search
from mergeopt.optimizers.subspace import LONGEST, Subspace
from mergeopt.space.dimension import Dimension
from mergeopt.space.levels import Level

_GP_DIMENSIONS, _GP_TRIALS = 12, 64
_DIRECTIONS = 6
_HARM = 0.02  # of the held-out loss: how much a move by 1 in each direction may cost


def choice(dimensions: int, trials: int) -> str:
    """The name of the optimizer for so many dimensions and trials: "gp" or "cmaes".

    On a synthetic merge (accuracy over 200 items; init 0.46, optimum 0.75), the true accuracy of the consensus after 48
    trials is 0.73 by GP and 0.69 by CMA-ES in 4 dimensions, 0.60 and 0.58 in 12, 0.60 and 0.61 in 20; after 96 trials
    they are equal in 12 dimensions. TPE was behind from 12 dimensions on. Three to six seeds: 0.02 is noise.
    """
    return "gp" if dimensions <= _GP_DIMENSIONS and trials <= _GP_TRIALS else "cmaes"


def black_box(
    dimensions: Sequence[Dimension], *, seed: int, trials: int, starts: Sequence[Point], batch: int
) -> Search:
    """A search of the kind that `choice` names."""
    if choice(len(dimensions), trials) == "gp":
        from mergeopt.optimizers.gp import Gp

        return Gp(dimensions, seed=seed, trials=trials, starts=starts, batch=batch)
    from mergeopt.optimizers.cmaes import CmaEs

    return CmaEs(dimensions, seed=seed, trials=trials, starts=starts, batch=batch)


def auto(
    dimensions: Sequence[Dimension],
    *,
    seed: int,
    trials: int,
    starts: Sequence[Point],
    batch: int,
    levels: Sequence[Level] = (),
    steps: int = 0,
) -> Search:
    """An `Auto` where there are levels to learn along, else a black box."""
    if not levels:
        return black_box(dimensions, seed=seed, trials=trials, starts=starts, batch=batch)
    return Auto(dimensions, seed=seed, trials=trials, starts=starts, batch=batch, levels=levels, steps=steps)


class Auto(Search):
    """A `Gradient`, then a black box in a `Subspace` around what it found.

    In between, two held-out measurements either way along the first direction say how much a move costs: the Fisher of
    mini-batch gradients has the directions and their proportions, not the scale.
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        *,
        seed: int,
        trials: int,
        starts: Sequence[Point],
        batch: int,
        levels: Sequence[Level],
        steps: int,
    ) -> None:
        super().__init__(dimensions, seed=seed, trials=trials, starts=starts, batch=batch)
        self.gradient = Gradient(
            dimensions, seed=seed, trials=trials, starts=starts, batch=batch, levels=levels, steps=steps
        )
        self._probed: list[Outcome] = []
        self._around: tuple[Subspace, Search] | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        return self.gradient.remarks

    def importance(self) -> Importance | None:
        return self.gradient.importance()

    def mean(self) -> Point | None:
        """The centre of the black box's belief once it has one, else the gradient's best point."""
        if self._around is not None and (z := self._around[1].mean()) is not None:
            return self._around[0].point(z)
        return self.gradient.mean()

    def request(self, number: int) -> Request | None:
        if not self.gradient.finished:
            request = self.gradient.ask()
        elif self._around is not None:
            subspace, search = self._around
            request = search.ask()
            request = request and Request(number, subspace.point(request.point))
        else:
            request = self._probe(number - len(self.gradient.told))
        return request and replace(request, number=number)

    def learn(self, outcome: Outcome) -> None:
        if self._around is not None:
            self._tell(outcome)
        elif not self.gradient.finished:
            number = len(self.gradient.told)
            self.gradient.tell(replace(outcome, request=replace(outcome.request, number=number)))
        else:
            self._probed.append(outcome)
            if len(self._probed) == 2:
                self._begin()

    def _probe(self, index: int) -> Request | None:
        best, (values, vectors) = self.gradient.best, self.gradient.spectrum()
        if index > 1 or best is None or not values[:1].any():
            return None
        move = LONGEST * vectors[:, 0] * (1 - 2 * index)
        point = self.cube.outside(self.cube.inside(best.point) + move)
        return Request(0, point, wants=frozenset({"items"}), split="calibrate")

    def _begin(self) -> None:
        """Opens the second half: its first proposal is the solution, which was tried already."""
        best, (values, vectors) = self.gradient.best, self.gradient.spectrum()
        assert best is not None
        measured = [m.mean - best.mean for o in self._probed if (m := HeldOut.of(o)) is not None]
        harm = _HARM * abs(best.mean)
        cost = max(harm, fmean(measured) if measured else 0.0)  # of LONGEST along the first direction
        costs = cost * values / values[0]
        count = min(_DIRECTIONS, int(np.sum(costs > 1e-9 * cost)))
        subspace = Subspace(self.cube, best.point, vectors[:, :count], costs[:count], harm)
        trials, start = max(1, self.trials - len(self.tried)), (0.0,) * count
        search = black_box(subspace.dimensions, seed=self.seed, trials=trials, starts=[start], batch=self.batch)
        self._around = subspace, search
        self._tell(next(o for o in self.tried if o.point == best.point))

    def _tell(self, outcome: Outcome) -> None:
        assert self._around is not None
        subspace, search = self._around
        z = subspace.coordinates(outcome.point)
        search.tell(replace(outcome, point=z, request=Request(len(search.told), z)))
