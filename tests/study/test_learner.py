"""A step's gradient is that of the loss in the point, through merge, model and space."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mergeopt.optimizers.base import Request
from mergeopt.scoring.forward import Batching
from mergeopt.scoring.learning.curriculum import Curriculum, Domain
from mergeopt.scoring.learning.lessons import lessons_of
from mergeopt.study.job import SearchJob
from mergeopt.study.learner import Learner
from mergeopt.study.workbench import Compute, Workbench
from tests.study.family import hole, recipe, search_data
from tests.study.test_search import interpolated, prepare

DOUBLE = Compute(torch.device("cpu"), torch.float64)


def learner(job: SearchJob, compute: Compute = DOUBLE, **settings: Any) -> Learner:
    """Right answers of both evals."""
    bench = Workbench(job.checkpoints, job.suite, compute)
    encoder = bench.encoder(job.recipe)
    evals = [info.name for info in job.suite.evals]
    domains = [Domain(name, lessons_of(job.suite, name, "calibrate", encoder), "nll") for name in evals]
    curriculum = Curriculum(domains, seed=0, held_out=0.3, batching=Batching(None, 512), device=torch.device("cpu"))
    return Learner(job, bench, curriculum, **{"size": 4, "pull": 0.0} | settings)


def request(number: int, point: Any, want: Any = "gradient", branch: int = 0) -> Request:
    return Request(number, tuple(map(float, point)), branch, frozenset({want}), "calibrate")


def fine() -> Any:
    return recipe(hole(0, 1, init=0.4, depth="layers", parts="blocks", outer="each"))


def averaged() -> Any:
    return recipe(hole(0.1, 1, init=0.4, depth=2, outer=hole(0.1, 1)), method="linear", parameters={"normalize": True})


def trimmed() -> Any:
    """So few deltas are kept that sources hardly meet: where an elected sign flips, the loss jumps."""
    scale = hole(0.5, 2.0, init=1.0, log=True)
    return recipe(hole(0.5, 1.5), method="ties", parameters={"density": 0.03, "normalize": False, "lambda": scale})


@pytest.mark.parametrize("make", [fine, averaged, interpolated, trimmed], ids=lambda made: made.__name__)
def test_the_gradient_is_the_difference_of_the_loss(make: Callable[[], Any], work: Path, tmp_path: Path) -> None:
    job = prepare(search_data(make() | {"dtype": "float64"}, method="gradient"), tmp_path)
    made = learner(job, pull=0.3)
    dimensions = job.space.branches[0].dimensions
    rng = np.random.default_rng(0)
    at = np.array([round(d.low + (d.high - d.low) * rng.uniform(0.3, 0.7), 2) for d in dimensions])
    found = made.measure(request(5, at))
    assert found.gradient is not None and len(found.gradient) == len(dimensions) and found.tokens > 0

    def value(index: int, step: float) -> float:
        there = at.copy()
        there[index] += step
        measured = made.measure(request(5, there)).value
        assert measured is not None
        return measured

    for index in rng.permutation(len(dimensions))[:6]:
        near, far = (value(index, step) - value(index, -step) for step in (0.01, 0.02))
        difference = (8 * near - far) / 0.12  # losses are sums of float32: a wide stencil of fourth order
        assert found.gradient[index] == pytest.approx(difference, rel=1e-3, abs=5e-5)
    assert np.abs(found.gradient).max() > 0.05


def test_a_step_is_a_function_of_its_number_and_point(work: Path, tmp_path: Path) -> None:
    job = prepare(search_data(fine(), method="gradient"), tmp_path)
    made, at = learner(job, Compute(torch.device("cpu"))), job.space.branches[0].init
    first = made.measure(request(3, at))
    others = [made.measure(request(4, at)), made.measure(request(3, [0.7] * len(at)))]
    made.measure(request(0, at, "items"))
    again = learner(job, Compute(torch.device("cpu"))).measure(request(3, at))
    assert made.measure(request(3, at)) == first == again
    assert all(other.value != first.value for other in others)


def test_held_out_losses_come_by_domain_and_in_order(work: Path, tmp_path: Path) -> None:
    job = prepare(search_data(fine(), method="gradient"), tmp_path)
    made, at = learner(job), job.space.branches[0].init
    found, there = made.measure(request(0, at, "items")), made.measure(request(9, [0.7] * len(at), "items"))
    assert found.gradient is None and list(found.items) == ["upper_lines", "sort_lines"]
    assert [len(items) for items in found.items.values()] == [len(items) for items in there.items.values()] == [9, 9]
    assert found.value == pytest.approx(-np.mean([np.mean(items) for items in found.items.values()]), rel=1e-6)
    assert made.measure(request(1, at, "items")) == found


def test_the_pull_is_towards_the_init(work: Path, tmp_path: Path) -> None:
    job = prepare(search_data(recipe(hole(0.0, 2.0, init=0.4)), method="gradient"), tmp_path)
    free, held = learner(job), learner(job, pull=2.0)
    one, other = (made.measure(request(0, (0.8, 0.4))) for made in (free, held))
    assert one.value is not None and other.value == pytest.approx(one.value - 2.0 * 0.2**2)
    assert one.gradient and other.gradient
    assert np.subtract(other.gradient, one.gradient) == pytest.approx([-2 * 2.0 * 0.2 / 2.0, 0.0])
    init = [made.measure(request(0, (0.4, 0.4))) for made in (free, held)]
    assert init[0] == init[1]


@pytest.mark.parametrize(("weight", "dtype"), [(3e38, None), (3e4, torch.float16)], ids=["weights", "outputs"])
def test_what_is_not_finite_fails_the_step(
    weight: float, dtype: torch.dtype | None, work: Path, tmp_path: Path
) -> None:
    job = prepare(search_data(recipe(hole(0.5, 3e38, init=0.5)) | {"dtype": "float16"}, method="gradient"), tmp_path)
    compute = Compute(torch.device("cpu"), dtype)
    made = learner(job, compute)
    for want in ("gradient", "items"):
        failed = made.measure(request(0, (weight, weight), want))
        assert (failed.value, failed.gradient, dict(failed.items)) == (None, None, {})
    after = made.measure(request(0, (0.5, 0.5)))
    assert after.value is not None and after == learner(job, compute).measure(request(0, (0.5, 0.5)))


def test_every_branch_has_its_own_chain(work: Path, tmp_path: Path) -> None:
    space = recipe() | {"merge_method": {"choice": ["task_arithmetic", "ties"]}}
    job = prepare(search_data(space, method="gradient"), tmp_path)
    made = learner(job)
    gradients = [made.measure(request(0, (0.5, 0.6), branch=branch)).gradient for branch in (0, 1, 0)]
    assert gradients[0] == gradients[2] != gradients[1]
