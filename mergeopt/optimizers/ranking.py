"""Which outcome is better, said once for every optimizer.

Feasible outcomes come first, by value; then infeasible ones, by how little they miss; then failed trials. Deb's rule
(2000, "An efficient constraint handling method for genetic algorithms").
"""

import math
from collections.abc import Iterable, Sequence

from mergeopt.optimizers.base import Outcome


def feasible(outcome: Outcome) -> bool:
    """Whether the trial gave a finite value and all constraints hold."""
    return not failed(outcome) and outcome.violation <= 0


def failed(outcome: Outcome) -> bool:
    """Whether the trial gave no usable value."""
    return outcome.value is None or not math.isfinite(outcome.value + outcome.violation)


def goodness(outcome: Outcome) -> tuple[int, float]:
    """A sort key, higher is better: (2, value) feasible, (1, −violation) infeasible, (0, 0) failed."""
    if failed(outcome) or outcome.value is None:
        return (0, 0.0)
    return (2, outcome.value) if outcome.violation <= 0 else (1, -outcome.violation)


def ranked(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Best first; of equals, the one told first."""
    return sorted(outcomes, key=goodness, reverse=True)


def standing(outcomes: Sequence[Outcome], share: float = 0.25) -> tuple[int, float]:
    """How good a set of outcomes is at its upper end, comparable like `goodness`.

    The mean of the best `share` of the feasible values: steadier than the best of a noisy score, and not dragged down
    by the bad corners that every search visits. Without a feasible outcome, the goodness of the best.
    """
    best = ranked(o for o in outcomes if feasible(o))
    if not best:
        return max((goodness(o) for o in outcomes), default=(0, 0.0))
    top = best[: max(1, math.ceil(share * len(best)))]
    return (2, math.fsum(o.value for o in top if o.value is not None) / len(top))
