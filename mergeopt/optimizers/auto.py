"""`auto`: the optimizer for a branch, chosen from its dimensions and its budget."""

from collections.abc import Sequence

from mergeopt.optimizers.search import Point, Search
from mergeopt.space.dimension import Dimension

_GP_DIMENSIONS, _GP_TRIALS = 20, 64


def choice(dimensions: int, trials: int) -> str:
    """The name of the optimizer for so many dimensions and trials: "gp" or "cmaes".

    Numbers go here.
    """
    return "gp" if dimensions <= _GP_DIMENSIONS and trials <= _GP_TRIALS else "cmaes"


def auto(dimensions: Sequence[Dimension], *, seed: int, trials: int, starts: Sequence[Point], batch: int) -> Search:
    """A search of the kind that `choice` names."""
    if choice(len(dimensions), trials) == "gp":
        from mergeopt.optimizers.gp import Gp

        return Gp(dimensions, seed=seed, trials=trials, starts=starts, batch=batch)
    from mergeopt.optimizers.cmaes import CmaEs

    return CmaEs(dimensions, seed=seed, trials=trials, starts=starts, batch=batch)
