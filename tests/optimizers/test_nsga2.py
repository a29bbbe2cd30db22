"""Fronts, crowding and a trade-off found."""

import numpy as np

from mergeopt.optimizers import create
from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.conformance import generation
from mergeopt.optimizers.nsga2 import crowded, non_dominated, survivors
from mergeopt.space.dimension import Dimension


def test_fronts() -> None:
    scores = np.array([[1, 0], [0, 1], [0.5, 0.5], [0.4, 0.4], [0.4, 0.3], [1, 0]])
    assert non_dominated(scores).tolist() == [0, 0, 0, 1, 2, 0]


def test_crowding_prefers_the_ends_and_the_lonely() -> None:
    distance = crowded(np.array([[0.0, 1.0], [0.1, 0.9], [0.2, 0.8], [1.0, 0.0]]))
    assert np.isinf(distance[[0, 3]]).all()
    assert distance[2] > distance[1]


def test_survivors_put_the_feasible_first() -> None:
    def outcome(number: int, value: float | None, violation: float = 0.0) -> Outcome:
        return Outcome(Request(number, (0.0,)), (0.0,), value, violation)

    given = [outcome(0, None), outcome(1, 9.0, 0.5), outcome(2, 0.1), outcome(3, 0.2)]
    assert [o.request.number for o in survivors(given, 3)] == [3, 2, 1]


def test_a_front_of_two_opposed_objectives() -> None:
    """Objectives −|x−0.2|² and −|x−0.8|² in 4 dimensions: the front is the line between, not one end of it."""
    dimensions = [Dimension(f"x{i}", 0.0, 1.0, 0.05) for i in range(4)]

    def measure(request: Request) -> Outcome:
        x = np.array(request.point)
        objectives = tuple(-float(((x - at) ** 2).sum()) for at in (0.2, 0.8))
        return Outcome(request, request.point, sum(objectives), objectives=objectives)

    optimizer = create("nsga2", [dimensions], seed=0, trials=240)
    outcomes = [o for _ in range(30) for o in generation(optimizer, measure, batch=8)]
    first, second = np.array([o.objectives for o in outcomes]).max(0)
    assert first > -0.1
    assert second > -0.1
    late = np.array([o.point for o in outcomes[-80:]])
    assert late.mean(1).min() < 0.4
    assert late.mean(1).max() > 0.6
    assert late.std(axis=1).mean() < 0.2  # near the line: random points have 0.27
