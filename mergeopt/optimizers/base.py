"""The seam between proposing and measuring.

An optimizer is mathematics on vectors: it says which point it wants measured and *what it wants to know about it*
(a value, per-item scores, a gradient, the Fisher), on which split; it is told the outcome. It never sees the study,
a model, a recipe or a file. Two promises make a study resumable and independent of the executor: proposal n is a pure
function of (seed, n, what was told before), and outcomes are told in the order of their numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Want = Literal["value", "items", "gradient", "fisher"]
Split = Literal["calibrate", "search"]


@dataclass(frozen=True, slots=True)
class Request:
    """A point to measure: `number` counts proposals from 0; `branch` indexes the space's choices."""

    number: int
    point: tuple[float, ...]
    branch: int = 0
    wants: frozenset[Want] = frozenset({"value"})
    split: Split = "search"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured at `point`, the request's point as it was evaluated (rounded).

    `value` is the objective, higher is better; None for a failed trial (NaN weights or scores). `violation` is 0 where
    all constraints hold, else by how much they are missed: an infeasible point ranks below every feasible one, by
    violation. `objectives` are the parts of the value, one per eval, each higher-is-better, for multi-objective search.
    `items`, `gradient` (one number per dimension, of the value) and `fisher` (d × d) are there if asked for.
    """

    request: Request
    point: tuple[float, ...]
    value: float | None
    violation: float = 0.0
    items: Mapping[str, Any] | None = None
    gradient: tuple[float, ...] | None = None
    fisher: tuple[tuple[float, ...], ...] | None = None
    objectives: tuple[float, ...] = ()


class Optimizer(Protocol):
    """Proposes points and learns from what they gave."""

    def ask(self) -> Request | None:
        """The next point to measure; None: nothing until more is told, or ever (a finished grid)."""
        ...

    def tell(self, outcome: Outcome) -> None:
        """What a request gave. Called once per request, in the order of their numbers, perhaps several asks later."""
        ...

    def consensus(self) -> tuple[int, tuple[float, ...]] | None:
        """(branch, point) where it believes the optimum to be, worth measuring at the end; None: it has no belief."""
        ...
