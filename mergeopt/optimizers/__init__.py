"""Optimizers: propose points, learn from numbers. Mathematics on vectors, nothing else.

Adding one is a file with a `Search` (one branch, one method to write) and a line in `OPTIMIZERS`; `conformance.py`
then tests it with the others.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from types import MappingProxyType

from mergeopt.errors import InputError, did_you_mean
from mergeopt.optimizers.branches import Branches, Start
from mergeopt.space.dimension import Dimension
from mergeopt.space.levels import Level

__all__ = ["LEARNING", "OPTIMIZERS", "STEPS", "VERSION", "Branches", "Start", "create"]

# name -> "module:class", imported when it is asked for: Optuna takes half a second
OPTIMIZERS: Mapping[str, str] = MappingProxyType(
    {
        "auto": "auto:auto",
        "cmaes": "cmaes:CmaEs",
        "gp": "gp:Gp",
        "gradient": "gradient:Gradient",
        "grid": "grid:Grid",
        "nsga2": "nsga2:Nsga2",
        "random": "random:Random",
        "tpe": "tpe:Tpe",
    }
)

LEARNING = frozenset({"auto", "gradient"})  # those that use gradients where there are some
STEPS = 300
VERSION = 3  # of what `auto` proposes: a study begun with another cannot be gone on with


def create(
    name: str,
    branches: Sequence[Sequence[Dimension]],
    *,
    seed: int,
    trials: int,
    starts: Sequence[Start] = (),
    batch: int = 8,
    levels: Sequence[Sequence[Level]] | None = None,
    steps: int = STEPS,
) -> Branches:
    """The optimizer called `name`, over one continuous branch per choice of the space.

    Args:
        name: A key of `OPTIMIZERS`.
        branches: The dimensions of every branch; a space without choices has one branch, a recipe without holes one
            branch of no dimensions.
        seed: Proposals are a pure function of it and of what was told.
        trials: The budget, for optimizers that plan with it.
        starts: Measured first, in this order; then the `init` of every branch.
        batch: How many proposals are asked for before their outcomes are told.
        levels: Of every branch, coarse to fine, if gradients can be asked for; for optimizers in `LEARNING`.
        steps: Gradients for each branch, at most.

    Raises:
        InputError: No such optimizer, one that needs gradients where there are none, or a start outside its range.
    """
    if name not in OPTIMIZERS:
        raise InputError(
            f"no optimizer is called {name!r}",
            where="optimize.method",
            remedy=did_you_mean(name, tuple(OPTIMIZERS)),
        )
    if name == "gradient" and levels is None:
        raise InputError(
            "there is nothing to take a gradient of",
            where="optimize.method",
            remedy="give evals that have answers, a teacher or prompts to learn from, or use method auto",
        )
    if not branches:
        raise ValueError("a space has at least one branch")
    module, _, attribute = OPTIMIZERS[name].partition(":")
    make = getattr(import_module(f"{__name__}.{module}"), attribute)
    makes = [make] * len(branches)
    if levels is not None and name in LEARNING:
        makes = [partial(make, levels=of_branch, steps=steps) for of_branch in levels]
    return Branches(makes, branches, seed=seed, trials=trials, starts=starts, batch=batch)
