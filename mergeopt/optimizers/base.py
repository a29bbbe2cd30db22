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
    """A point to measure: `number` counts proposals from 0; `branch` indexes the space's choices.

    Three kinds. On split "search" it is a trial: the objective. On "calibrate" it is about the smooth loss to learn
    from: with {"gradient"} on mini-batch `number`, with {"items"} on all held-out lessons; `level` says for whoever
    watches how fine the directions are that it learns along.
    """

    number: int
    point: tuple[float, ...]
    branch: int = 0
    wants: frozenset[Want] = frozenset({"value"})
    split: Split = "search"
    level: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured at `point`, the request's point as it was evaluated (rounded).

    `value` is the objective, higher is better; None for a failed trial (NaN weights or scores). `violation` is 0 where
    all constraints hold, else by how much they are missed: an infeasible point ranks below every feasible one, by
    violation. `objectives` are the parts of the value, one per eval, each higher-is-better, for multi-objective search.
    `items`, `gradient` (one number per dimension, of the value) and `fisher` (d × d) are there if asked for.

    On split "calibrate", with {"gradient"}: `value` is minus the smooth loss on the request's mini-batch and `gradient`
    that of this value; with {"items"}: `items` maps each domain to the loss of every held-out lesson, the same lessons
    in the same order every time, and `value` is minus the mean over domains of their means. Neither is a trial: they
    are never compared with outcomes of split "search".
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
