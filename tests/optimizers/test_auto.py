"""First the gradient, then a black box on the objective in the directions that matter."""

from dataclasses import replace

import numpy as np
import pytest

from mergeopt.optimizers.auto import Auto, auto
from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.cmaes import CmaEs
from mergeopt.optimizers.cube import Cube
from mergeopt.optimizers.fake import FakeStudy
from mergeopt.optimizers.subspace import LONGEST, Subspace
from mergeopt.space.dimension import Dimension
from mergeopt.space.levels import Level

D = 20
DIMENSIONS = tuple(Dimension(f"x{i}", 0.0, 1.0, 0.5) for i in range(D))
START = (0.5,) * D
LEVELS = (
    Level("source", (tuple((i, 1.0) for i in range(D)),)),
    Level("tensors", tuple(((i, 1.0),) for i in range(D))),
)
STEEP = np.where(np.arange(D) < 3, 20.0, 0.1)
LOSS_OPTIMUM, OBJECTIVE_OPTIMUM = np.full(D, 0.4), np.where(np.arange(D) == 0, 0.44, 0.4)


def trial(request: Request) -> Outcome:
    """The objective is best a little beside where the loss is, in a direction that the loss minds."""
    point = tuple(float(f"{x:.4g}") for x in request.point)
    return Outcome(request, point, -float((STEEP * (np.array(point) - OBJECTIVE_OPTIMUM) ** 2).sum()))


STUDY = FakeStudy(np.random.default_rng(0).normal(LOSS_OPTIMUM, 0.1, (2000, D)), STEEP, minibatch=32, trial=trial)


def search(trials: int) -> Auto:
    made = auto(DIMENSIONS, seed=0, trials=trials, starts=[START], batch=8, levels=LEVELS, steps=200)
    assert isinstance(made, Auto)
    return made


def outcomes_of(made: Auto, trials: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while len(made.tried) < trials and (request := made.ask()) is not None:
        outcomes.append(STUDY(request))
        made.tell(outcomes[-1])
    return outcomes


def test_the_objective_decides_at_the_end() -> None:
    made = search(100)
    outcomes_of(made, 100)
    solution = made.gradient.best
    assert solution is not None
    found = trial(Request(0, solution.point)).value
    best = max(o.value for o in made.tried if o.value is not None)
    start = made.tried[0].value
    assert start is not None
    assert found is not None
    assert found > start / 10
    assert best > found / 2
    assert made.mean() is not None
    assert trial(Request(0, made.mean() or ())).value > found / 2  # type: ignore[operator]


def test_it_stays_where_the_loss_allows_and_in_six_directions() -> None:
    made = search(100)
    outcomes = outcomes_of(made, 100)
    solution = made.gradient.best
    assert solution is not None
    last = max(i for i, o in enumerate(outcomes) if o.request.split == "calibrate")
    assert [next(iter(o.request.wants)) for o in outcomes[last - 1 : last + 1]] == ["items", "items"]
    around = np.array([o.point for o in outcomes[last + 1 :]]) - np.array(solution.point)
    assert np.linalg.matrix_rank(around, tol=0.01) <= 6
    for outcome in outcomes[last + 1 :]:
        request = replace(outcome.request, wants=frozenset({"items"}), split="calibrate")
        assert -(STUDY(request).value or 0) < 1.3 * solution.mean
    assert len({o.request.point for o in outcomes if o.request.split == "search"}) == 100


def test_without_levels_a_black_box_alone() -> None:
    assert isinstance(auto(DIMENSIONS, seed=0, trials=100, starts=[START], batch=8), CmaEs)


def test_a_gradient_that_fails_everywhere_ends_in_the_starts() -> None:
    made = search(100)
    while (request := made.ask()) is not None:
        made.tell(Outcome(request, request.point, 1.0 if request.split == "search" else None))
    assert [o.point for o in made.tried] == [START]


def test_equal_harm_along_every_direction() -> None:
    rng = np.random.default_rng(0)
    vectors, _ = np.linalg.qr(rng.normal(size=(D, 4)))
    curvatures = np.array([200.0, 30.0, 5.0, 0.01])
    subspace = Subspace(Cube(DIMENSIONS), START, vectors, curvatures / 2 * LONGEST**2, 0.02)
    for i, curvature in enumerate(curvatures):
        z = tuple(1.0 * (j == i) for j in range(4))
        move = np.array(subspace.point(z)) - np.array(START)
        harm = curvature / 2 * float(move @ move)
        assert harm == pytest.approx(min(0.02, curvature / 2 * LONGEST**2))
        assert subspace.coordinates(subspace.point(z)) == pytest.approx(z)
