"""The chain rule: coefficients are affine in the point, whatever the holes look like."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mergeopt.merge.layout import Layout, lay_out
from mergeopt.merge.plan import Plan, fill
from mergeopt.merge.sources import facts
from mergeopt.methods import SCHEMAS
from mergeopt.study.chain import Chain
from mergeopt.study.job import SearchJob
from tests.study.family import hole, recipe, search_data
from tests.study.test_search import chosen, interpolated, prepare, sliced


def planned(job: SearchJob, branch: int, point: np.ndarray) -> tuple[Layout, Plan]:
    made = job.recipe_at(branch, point)
    layout = lay_out(made, facts(job.checkpoints), SCHEMAS[made.method])
    return layout, fill(layout, made, SCHEMAS[made.method])


def total(plan: Plan, factors: dict[tuple[str, str], torch.Tensor], job: SearchJob) -> float:
    """Σ factor · coefficient."""
    schema, found = SCHEMAS[plan.method], 0.0
    by_tensor = {made.tensor: made for made in plan.jobs}
    for (tensor, name), factor in factors.items():
        value = by_tensor[tensor].coefficients[name]
        values = value if schema.parameters[name].per_source else (value,)
        found += sum(f * v for f, v in zip(factor.reshape(-1).tolist(), values, strict=True))
    return found


def listed_base() -> Any:
    """The base among the models: it is no source, and those behind it move up."""
    made = recipe()
    made["models"][0]["parameters"] = {"weight": hole(depth=3, outer=hole(0, 1))}
    made["models"] = [made["models"][0], {"model": "zoo/base"}, made["models"][1]]
    return made


def everything() -> Any:
    made = recipe(method="ties", parameters={"lambda": hole(0.5, 2, init=1, log=True)})
    first = {"weight": hole(depth="layers", parts="modules", outer="each"), "density": hole(0.1, 1, share="d")}
    mlp = {"filter": "mlp", "value": hole(depth=3, outer=0.25)}
    second = {"weight": [mlp, {"value": hole(0, 2, parts="blocks")}], "density": {"share": "d"}}
    made["models"][0]["parameters"], made["models"][1]["parameters"] = first, second
    return made


def listed() -> Any:
    """A gradient list with a hole and a number in it."""
    made = recipe()
    made["models"][0]["parameters"] = {"weight": [0.1, hole()]}
    return made


@pytest.mark.parametrize(
    ("make", "branches"),
    [(everything, 1), (listed_base, 1), (listed, 1), (interpolated, 1), (sliced, 1), (chosen, 2)],
    ids=lambda made: getattr(made, "__name__", ""),
)
def test_the_chain_is_the_difference_of_the_coefficients(
    make: Callable[[], Any], branches: int, work: Path, tmp_path: Path
) -> None:
    job = prepare(search_data(make()), tmp_path)
    assert len(job.space.branches) == branches
    rng = np.random.default_rng(0)
    for index, branch in enumerate(job.space.branches):
        low, high = (np.array([getattr(d, side) for d in branch.dimensions]) for side in ("low", "high"))
        at = np.round(low + (high - low) * rng.uniform(0.3, 0.6, len(low)), 3)
        layout, plan = planned(job, index, at)
        chain = Chain(branch, layout, SCHEMAS[plan.method])
        sizes = {
            (made.tensor, name): len(made.inputs) if SCHEMAS[plan.method].parameters[name].per_source else 1
            for made in plan.jobs
            for name in chain.wanted.get(made.tensor, ())
        }
        factors = {key: torch.tensor(rng.normal(size=size)) for key, size in sizes.items()}
        gradient = chain(factors)
        assert len(gradient) == len(branch.dimensions) and np.abs(gradient).min() > 0
        for dimension in range(len(low)):
            there = at.copy()
            there[dimension] = round(at[dimension] + 0.1 * (high - low)[dimension], 3)
            change = total(planned(job, index, there)[1], factors, job) - total(plan, factors, job)
            assert gradient[dimension] == pytest.approx(change / (there - at)[dimension], abs=1e-9)


def test_only_what_moves_is_wanted(work: Path, tmp_path: Path) -> None:
    weight = [{"filter": "mlp", "value": hole()}, {"value": 0.5}]
    job = prepare(search_data(recipe(weight, method="ties", parameters={"density": 0.5})), tmp_path)
    branch = job.space.branches[0]
    layout, _ = planned(job, 0, np.array(branch.init))
    wanted = Chain(branch, layout, SCHEMAS["ties"]).wanted
    assert wanted == {slot.tensor: frozenset({"weight"}) for slot in layout.slots if "mlp" in slot.tensor}


def test_a_threshold_has_no_gradient(work: Path, tmp_path: Path) -> None:
    parameters = {"r": hole(0, 1), "epsilon": hole(1e-6, 1e-2)}
    data = recipe(method="ramplus_tl", parameters=parameters)
    for model in data["models"]:
        model.pop("parameters", None)
    job = prepare(search_data(data, method="gradient"), tmp_path)
    assert any("epsilon is a threshold: no gradient moves it" in notice for notice in job.notices)
    (branch,) = job.space.branches
    layout, plan = planned(job, 0, np.array(branch.init))
    chain = Chain(branch, layout, SCHEMAS[plan.method])
    assert set(chain.wanted.values()) == {frozenset({"r"})}
    gradient = chain({(made.tensor, "r"): torch.ones((), dtype=torch.float64) for made in plan.jobs})
    assert gradient.tolist() == [len(plan.jobs), 0]
