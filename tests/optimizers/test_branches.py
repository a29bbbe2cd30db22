"""Choices are a tournament of branches, decided by history alone."""

import numpy as np
import pytest

from mergeopt.errors import InputError
from mergeopt.optimizers import Start, create
from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.branches import quotas
from mergeopt.optimizers.conformance import generation, measured
from mergeopt.optimizers.fake import FakeStudy
from mergeopt.space.dimension import Dimension
from mergeopt.space.levels import Level

LINE = (Dimension("x", 0.0, 1.0, 0.5),)


def asked(values: list[float], trials: int, generations: int) -> list[int]:
    """Which branch was asked, in order, when branch i always scores values[i]."""
    optimizer = create("random", [LINE] * len(values), seed=0, trials=trials)
    return [
        o.request.branch
        for _ in range(generations)
        for o in generation(optimizer, lambda r: measured(r, values[r.branch]), batch=8)
    ]


def test_halving_spends_the_budget_on_the_better_half() -> None:
    branches = asked([0.1, 0.4, 0.2, 0.3], trials=96, generations=12)
    assert branches[:32] == [0, 1, 2, 3] * 8
    assert [branches.count(i) for i in range(4)] == [8, 8 + 16 + 32, 8, 8 + 16]


def test_a_small_budget_still_gives_every_branch_its_least() -> None:
    branches = asked([0.1, 0.4, 0.2], trials=16, generations=2)
    assert min(branches.count(i) for i in range(3)) >= 4


def test_quotas() -> None:
    assert quotas(1, 50, 1) == [50]
    assert quotas(2, 40, 1) == [10, 30]
    assert quotas(4, 96, 1) == [8, 24, 56]
    assert quotas(8, 8, 6) == [6, 6, 6, 6]


def test_infeasible_branches_lose() -> None:
    optimizer = create("random", [LINE, LINE], seed=0, trials=40)
    branches = [
        o.request.branch
        for _ in range(5)
        for o in generation(optimizer, lambda r: measured(r, 1.0 - r.branch, violation=1.0 - r.branch), batch=8)
    ]
    assert branches.count(1) == 30


def test_a_branch_without_dimensions_is_measured_once_and_the_others_go_on() -> None:
    optimizer = create("random", [(), LINE], seed=0, trials=16)
    history = [
        o.request for _ in range(2) for o in generation(optimizer, lambda r: measured(r, 1.0 - r.branch), batch=8)
    ]
    assert [r.branch for r in history].count(0) == 1
    assert len(history) == 16


def test_a_single_best_score_does_not_decide_the_consensus() -> None:
    """Branch 0 got lucky once; branch 1 is better."""
    optimizer = create("random", [LINE, LINE], seed=0, trials=32)
    lucky: list[int] = []

    def measure(request: Request) -> object:
        if request.branch == 0 and not lucky:
            lucky.append(request.number)
            return measured(request, 0.9)
        return measured(request, 0.2 if request.branch == 0 else 0.8)

    for _ in range(4):
        generation(optimizer, measure, batch=8)  # type: ignore[arg-type]
    consensus = optimizer.consensus()
    assert consensus is not None
    assert consensus[0] == 1


def test_only_trials_count() -> None:
    """A branch that learns for long takes nothing from its share of trials, nor does what it learned from compete."""
    columns = Level("source", (((0, 1.0),),))
    optimizer = create("auto", [LINE, LINE], seed=0, trials=160, levels=[[columns], [columns]], steps=120)

    def measure(request: Request) -> Outcome:
        if request.split == "search":
            return measured(request, 1.0 * request.branch)
        return FakeStudy(np.random.default_rng(0).normal(0.4, 0.1, (32, 1)), np.ones(1))(request)

    requests: list[Request] = []
    while sum(r.split == "search" for r in requests) < 160:
        requests += [o.request for o in generation(optimizer, measure, batch=8)]
    trials = [r.branch for r in requests if r.split == "search"]
    assert trials.count(0) == 40
    assert len([r for r in requests if "gradient" in r.wants and r.branch == 0]) > 20


def test_what_was_told_twice_or_too_early_is_refused() -> None:
    optimizer = create("random", [LINE], seed=0, trials=8)
    first, second = (optimizer.ask() for _ in range(2))
    assert first is not None
    assert second is not None
    with pytest.raises(ValueError, match="out of order"):
        optimizer.tell(measured(second, 0.5))
    optimizer.tell(measured(first, 0.5))
    with pytest.raises(ValueError, match="out of order"):
        optimizer.tell(measured(first, 0.5))


def test_user_mistakes() -> None:
    with pytest.raises(InputError, match="did you mean 'cmaes'"):
        create("cma-es", [LINE], seed=0, trials=8)
    with pytest.raises(InputError, match="x = 2, outside its range"):
        create("random", [LINE], seed=0, trials=8, starts=[Start(0, (2.0,))])
    with pytest.raises(ValueError, match="does not fit"):
        create("random", [LINE], seed=0, trials=8, starts=[Start(0, (0.5, 0.5))])
