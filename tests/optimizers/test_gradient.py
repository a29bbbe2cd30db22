"""Learning by gradient finds what plain Adam finds, learns less from less, and survives bad luck."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest

from mergeopt.optimizers import create
from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.cube import Cube
from mergeopt.optimizers.descent import Descent, Directions
from mergeopt.optimizers.fake import FakeStudy
from mergeopt.optimizers.gradient import Gradient
from mergeopt.optimizers.growth import loss_gradient
from mergeopt.space.dimension import Dimension
from mergeopt.space.levels import Level

SOURCES, LAYERS = 4, 24
D = SOURCES * LAYERS
DIMENSIONS = tuple(Dimension(f"x{i}", 0.0, 1.5, 0.5) for i in range(D))
START = (0.5,) * D
LEVELS = (
    Level("source", tuple(tuple((s * LAYERS + i, 1.0) for i in range(LAYERS)) for s in range(SOURCES))),
    Level(
        "depth",
        tuple(
            tuple((s * LAYERS + i, share) for i in range(LAYERS) if (share := 1 - abs(i / (LAYERS - 1) * 2 - a)) > 0)
            for s in range(SOURCES)
            for a in range(3)
        ),
    ),
    Level("layers", tuple(((i, 1.0),) for i in range(D))),
)


@dataclass(frozen=True)
class Family:
    """A study whose optimum differs by source and, by `fine`, by layer; lessons have optima of their own around it."""

    fine: float
    lessons: int = 4000
    seed: int = 0

    @cached_property
    def optimum(self) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        return 0.75 + np.repeat(rng.normal(0, 0.25, SOURCES), LAYERS) + rng.normal(0, self.fine, D)

    @cached_property
    def study(self) -> FakeStudy:
        rng = np.random.default_rng(self.seed + 1)
        optima = self.optimum + rng.normal(0, 1.0, (self.lessons, D))
        return FakeStudy(optima, np.exp(rng.normal(0, 0.7, D)), minibatch=32)

    def excess(self, point: Sequence[float]) -> float:
        """The true loss above the optimum's, as a share of the start's."""
        cost = [(self.study.curvature * (np.array(x) - self.optimum) ** 2).sum() for x in (point, START)]
        return float(cost[0] / cost[1])

    def plain(self, steps: int) -> float:
        """The excess that Adam at the finest level alone ends with."""
        descent = Descent(Directions(LEVELS[-1]), np.full(D, 1 / 3), steps)
        while not descent.over:
            request = Request(descent.taken, (*(1.5 * descent.x),), 0, frozenset({"gradient"}), "calibrate")
            descent.step(-np.array(self.study(request).gradient))
        return self.excess(1.5 * descent.x)


def search(starts: tuple[tuple[float, ...], ...] = (START,), steps: int = 300) -> Gradient:
    return Gradient(DIMENSIONS, seed=0, trials=20, starts=starts, batch=8, levels=LEVELS, steps=steps)


def learned(gradient: Gradient, study: Callable[[Request], Outcome]) -> list[Outcome]:
    outcomes = []
    while (request := gradient.ask()) is not None:
        outcomes.append(study(request))
        gradient.tell(outcomes[-1])
    return outcomes


def kinds(outcomes: list[Outcome]) -> list[str]:
    return ["trial" if o.request.split == "search" else next(iter(o.request.wants)) for o in outcomes]


@pytest.mark.parametrize("fine", [0.0, 0.1, 0.3])
def test_with_many_lessons_it_finds_what_the_finest_level_finds(fine: float) -> None:
    family, gradient = Family(fine), search()
    outcomes = learned(gradient, family.study)
    assert gradient.best is not None
    assert family.excess(gradient.best.point) < family.plain(300) + 0.03
    assert kinds(outcomes).count("gradient") <= 300


@pytest.mark.parametrize("fine", [0.0, 0.1])
def test_with_few_lessons_it_learns_less_and_so_more(fine: float) -> None:
    family, gradient = Family(fine, lessons=48), search()
    learned(gradient, family.study)
    assert gradient.best is not None
    assert family.excess(gradient.best.point) < 0.5 * family.plain(300)


def test_a_start_that_is_the_best_of_a_coarse_level_does_not_end_the_search() -> None:
    """The coarse levels cannot improve it; the gradient along the finest says that there is more."""
    family = Family(0.3)
    optimum, weight = (v.reshape(SOURCES, LAYERS) for v in (family.optimum, family.study.curvature))
    coarse = tuple(float(x) for x in np.repeat((optimum * weight).sum(axis=1) / weight.sum(axis=1), LAYERS))
    gradient = search((coarse, START))
    learned(gradient, family.study)
    assert gradient.best is not None
    assert family.excess(gradient.best.point) < 0.3 * family.excess(coarse)


def test_it_begins_at_the_start_with_the_least_held_out_loss() -> None:
    """And not at the one whose trial is best."""
    family, good = Family(0.0), (0.8,) * D
    gradient = search((START, good, (1.4,) * D), steps=0)
    learned(
        gradient, lambda r: replace(family.study(r), value=sum(r.point)) if r.split == "search" else family.study(r)
    )
    assert gradient.best is not None
    assert gradient.best.point == good
    assert gradient.finished


def test_gradients_are_of_the_loss_and_by_unit_coordinates() -> None:
    cube = Cube([Dimension("a", 0.0, 2.0, 1.0), Dimension("b", 0.01, 1.0, 0.1, log=True)])
    outcome = Outcome(Request(0, (1.0, 0.1)), (1.0, 0.1), -3.0, gradient=(1.0, -5.0))
    assert loss_gradient(outcome, cube) == pytest.approx([-2.0, 5.0 * 0.1 * np.log(100)])
    assert loss_gradient(replace(outcome, gradient=(1.0, np.inf)), cube) is None
    assert loss_gradient(replace(outcome, gradient=None), cube) is None


def test_where_nothing_is_to_be_gained_it_stops_early_and_keeps_the_start() -> None:
    family = Family(0.0)
    start = tuple(family.optimum.tolist())
    gradient = Gradient(DIMENSIONS, seed=0, trials=20, starts=[start], batch=8, levels=LEVELS[-1:], steps=300)
    outcomes = learned(gradient, family.study)
    assert kinds(outcomes).count("gradient") < 200
    assert gradient.best is not None
    assert family.excess(gradient.best.point) < 0.01


def test_one_request_at_a_time_and_the_solutions_last() -> None:
    family, gradient = Family(0.3), search((START, (1.0,) * D))
    first = [gradient.ask() for _ in range(6)]
    assert [r and (r.split, r.point) for r in first] == [
        ("search", START),
        ("search", (1.0,) * D),
        ("calibrate", START),
        ("calibrate", (1.0,) * D),
        None,
        None,
    ]
    for request in first[:4]:
        assert request is not None
        gradient.tell(family.study(request))
    assert gradient.ask() is not None
    assert gradient.ask() is None
    again = search((START, (1.0,) * D))
    outcomes = learned(again, family.study)
    best = again.best
    assert best is not None
    steps = kinds(outcomes)
    solutions = [o for o in outcomes[steps.index("gradient") :] if o.request.split == "search"]
    assert steps[-len(solutions) :] == ["trial"] * len(solutions)
    assert 2 <= len(solutions) <= 4
    assert solutions[0].point == best.point == again.mean()
    assert [o.value for o in solutions] == sorted((o.value or 0 for o in solutions), reverse=True)
    assert again.finished


def test_a_best_point_that_breaks_a_constraint_is_not_believed() -> None:
    family, gradient = Family(0.0), search()
    learned(gradient, lambda r: replace(family.study(r), violation=float(r.point != START)))
    assert gradient.best is not None
    assert gradient.mean() is None


@pytest.mark.parametrize(("loss", "said"), [(None, "not finite"), (1e6, "the loss doubled")])
def test_a_cliff_is_backed_away_from(loss: float | None, said: str) -> None:
    """Beyond 0.6 on average nothing works; the optimum is at 0.75."""
    family, gradient = Family(0.0), search()

    def cliff(request: Request) -> Outcome:
        outcome = family.study(request)
        beyond = "gradient" in request.wants and np.mean(request.point) > 0.6
        return replace(outcome, value=loss and -loss, gradient=loss and outcome.gradient) if beyond else outcome

    outcomes = learned(gradient, cliff)
    assert gradient.best is not None
    assert family.excess(gradient.best.point) < 0.9
    assert 1 <= len(gradient.remarks) <= 5
    assert all(said in remark for remark in gradient.remarks)
    assert kinds(outcomes)[-1] == "trial"


def test_remarks_reach_the_study() -> None:
    optimizer = create("auto", [DIMENSIONS[:2]], seed=0, trials=9, levels=[[Level("source", (((0, 1.0), (1, 1.0)),))]])
    study = FakeStudy(np.full((32, 2), 0.7), np.ones(2))
    for _ in range(4):
        request = optimizer.ask()
        assert request is not None
        optimizer.tell(replace(study(request), **({"value": None} if "gradient" in request.wants else {})))
    why = "the loss or its gradient was not finite; back to the best point with half the step"
    assert optimizer.remarks == (f"level source, step 0: {why}", f"level source, step 1: {why}")


def test_importance_and_spectrum_know_what_the_loss_minds() -> None:
    study = Family(0.0).study
    steep = FakeStudy(study.optima, np.where(np.arange(D) == 7, 30.0, study.curvature), minibatch=32)
    gradient = search()
    assert gradient.importance() is None
    assert gradient.spectrum()[0].size == 0
    learned(gradient, steep)
    importance, (values, vectors) = gradient.importance(), gradient.spectrum()
    assert importance is not None
    assert importance.fisher.argmax() == 7
    assert np.median(importance.signal) < 2
    assert abs(vectors[7, 0]) > 0.95
    assert (np.diff(values) <= 0).all()
    assert values.sum() == pytest.approx(importance.fisher.sum())
