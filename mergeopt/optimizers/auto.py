"""`auto`: the optimizer for a branch, chosen from its dimensions and its budget."""

from collections.abc import Sequence

from mergeopt.optimizers.search import Point, Search
from mergeopt.space.dimension import Dimension


def auto(dimensions: Sequence[Dimension], *, seed: int, trials: int, starts: Sequence[Point], batch: int) -> Search:
    """A search of the kind `choice` names."""
    from mergeopt.optimizers.cmaes import CmaEs
    from mergeopt.optimizers.tpe import Tpe

    kind = {"cmaes": CmaEs, "tpe": Tpe}[choice(len(dimensions), trials)]
    return kind(dimensions, seed=seed, trials=trials, starts=starts, batch=batch)


def choice(dimensions: int, trials: int) -> str:
    return "tpe" if dimensions <= 20 and trials <= 150 else "cmaes"
