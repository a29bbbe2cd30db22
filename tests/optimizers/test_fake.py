"""The scripted optimizer keeps to its script."""

import numpy as np
import pytest

from mergeopt.optimizers.base import Optimizer, Request
from mergeopt.optimizers.conformance import measured
from mergeopt.optimizers.fake import FakeOptimizer, FakeStudy


def test_it_asks_what_it_was_given_and_remembers_what_it_was_told() -> None:
    fake = FakeOptimizer([(0.1,), (0.2,)], branch=1)
    optimizer: Optimizer = fake
    first = optimizer.ask()
    assert first is not None
    assert (first.number, first.branch, first.point) == (0, 1, (0.1,))
    optimizer.tell(measured(first, 0.5))
    assert optimizer.ask() is not None
    assert optimizer.ask() is None
    assert [o.value for o in fake.told] == [0.5]


def test_a_study_with_a_known_optimum_answers_three_kinds_of_requests() -> None:
    study = FakeStudy(np.random.default_rng(0).normal(0.6, 0.1, (40, 2)), np.array([1.0, 4.0]))

    def gradient(number: int, x: float) -> tuple[float | None, tuple[float, ...] | None]:
        found = study(Request(number, (x, 0.5), wants=frozenset({"gradient"}), split="calibrate"))
        return found.value, found.gradient

    low, high, (_, slope) = gradient(3, 0.49)[0], gradient(3, 0.51)[0], gradient(3, 0.5)
    assert low is not None
    assert high is not None
    assert slope is not None
    assert (high - low) / 0.02 == pytest.approx(slope[0])
    assert gradient(3, 0.5) == gradient(3, 0.5) != gradient(4, 0.5)
    held = study(Request(0, (0.6, 0.6), wants=frozenset({"items"}), split="calibrate"))
    assert held.items is not None
    assert {name: len(items) for name, items in held.items.items()} == {"even": 10, "odd": 10}
    assert held.value == pytest.approx(-np.mean([*held.items["even"], *held.items["odd"]]))
    assert study(Request(0, (0.6, 0.6))).value > -0.01  # type: ignore[operator]
