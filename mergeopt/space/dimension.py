"""A number the search may vary: the currency between space and optimizers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dimension:
    """One continuous dimension of a space.

    Its name is model name + key + filter + index (``zoo/sort.weight[mlp].2``), never a position in a list, so it
    survives reordering the recipe.
    """

    name: str
    low: float
    high: float
    init: float
    log: bool = False  # the optimizer works on the logarithm; needs low > 0


def rounded(value: float, low: float, high: float) -> float:
    """Four significant digits, kept inside [low, high]: what is scored is what is written."""
    short = float(f"{value:.4g}")
    return low if short < low else high if short > high else short
