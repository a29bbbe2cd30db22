"""Feasible before infeasible before failed."""

import math

from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.ranking import ranked, standing


def outcome(number: int, value: float | None, violation: float = 0.0) -> Outcome:
    return Outcome(Request(number, (0.0,)), (0.0,), value, violation)


def test_the_order() -> None:
    given = [
        outcome(0, None),
        outcome(1, 9.0, violation=0.5),
        outcome(2, 0.1),
        outcome(3, math.nan),
        outcome(4, 1.0, violation=0.1),
        outcome(5, 0.9),
        outcome(6, 0.1),
    ]
    assert [o.request.number for o in ranked(given)] == [5, 2, 6, 4, 1, 0, 3]


def test_standing_is_the_mean_of_the_upper_quarter_of_the_feasible() -> None:
    values = [outcome(i, float(i)) for i in range(8)]
    assert standing([*values, outcome(8, 100.0, violation=1.0), outcome(9, None)]) == (2, 6.5)
    assert standing([outcome(0, 1.0, violation=0.5), outcome(1, 1.0, violation=0.25)]) == (1, -0.25)
    assert standing([outcome(0, None)]) == standing([]) == (0, 0.0)
