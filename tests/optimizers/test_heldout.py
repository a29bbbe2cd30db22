"""Paired comparisons of held-out losses."""

import math

import numpy as np
import pytest

from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.heldout import HeldOut


def losses(**items: list[float]) -> HeldOut:
    found = HeldOut.of(Outcome(Request(0, (0.5,)), (0.5,), -1.0, items=items))
    assert found is not None
    return found


def test_domains_count_alike() -> None:
    assert losses(a=[1.0, 3.0], b=[5.0]).mean == 3.5


def test_the_gain_is_paired_and_stratified() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(5, 3, 40)  # lessons differ by far more than the points
    gained = rng.normal(0.3, 0.2, 40)
    before, after = losses(a=[*hard], b=[1.0] * 10), losses(a=[*(hard - gained)], b=[1.0] * 10)
    expected = (gained.mean() / 2) / (gained.std(ddof=1) / math.sqrt(40) / 2)
    assert after.gain_over(before) == pytest.approx(expected)
    assert before.gain_over(after) == pytest.approx(-expected)
    assert before.gain_over(before) == 0


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(Request(0, (0.5,)), (0.5,), None, items={"a": [1.0]}),
        Outcome(Request(0, (0.5,)), (0.5,), -1.0),
        Outcome(Request(0, (0.5,)), (0.5,), -1.0, items={"a": [1.0, math.nan]}),
    ],
)
def test_a_failure_is_no_measurement(outcome: Outcome) -> None:
    assert HeldOut.of(outcome) is None
