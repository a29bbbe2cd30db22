"""What a running study tells whoever watches: plain values, in order.

The study prints nothing; the command line turns these into a live display or into lines.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mergeopt.scoring.base import Scores


@dataclass(frozen=True, slots=True)
class Phase:
    """A new phase begins, with so many steps: references, lessons, search, refine, select, report or write."""

    name: str
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know; the study goes on."""

    text: str


@dataclass(frozen=True, slots=True)
class Scored:
    """A contender was scored on a split."""

    name: str
    split: str
    scores: Scores
    value: float | None = None


@dataclass(frozen=True, slots=True)
class TrialDone:
    """A trial finished; `value` None: it failed, `error` is the value's standard error.

    `best` is the best feasible value so far, of trials before a resumption too, and `best_error` that one's error.
    """

    number: int
    value: float | None
    best: float | None
    seconds: float
    params: Mapping[str, float]
    error: float | None = None
    best_error: float | None = None
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step of the gradient (else a held-out loss) was measured: `value` is minus the loss; None: not finite.

    `level` says how fine the directions are.
    """

    number: int
    value: float | None
    gradient: bool
    seconds: float
    tokens: int = 0
    level: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes of the winner written."""

    nbytes: int


Event = Phase | Notice | Scored | StepDone | TrialDone | Written
Listener = Callable[[Event], None]


def nobody(event: Event) -> None:
    """A listener that does not listen."""
    del event
