"""How Optuna's samplers are fed: what was evaluated, and constraints only once there are any."""

import logging

import numpy as np
import pytest

from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.conformance import CUBE, measured
from mergeopt.optimizers.tpe import Tpe


def search() -> Tpe:
    return Tpe(CUBE, seed=0, trials=40, starts=[tuple(d.init for d in CUBE)], batch=4)


def advance(tpe: Tpe, generations: int, violation: float = 0.0) -> list[Outcome]:
    told = []
    for _ in range(generations):
        requests = [r for r in (tpe.ask() for _ in range(4)) if r is not None]
        for request in requests:
            told.append(measured(request, -sum(request.point), violation if request.number == 18 else 0.0))
            tpe.tell(told[-1])
    return told


def finished(tpe: Tpe) -> list[tuple[tuple[float, ...], dict[str, float]]]:
    trials = tpe._study.get_trials(deepcopy=False)
    return [(tuple(t.params.values()), t.constraints) for t in trials if t.state.name == "COMPLETE"]


def test_the_model_learns_from_what_was_evaluated() -> None:
    tpe = search()
    told = advance(tpe, 4)
    assert [point for point, _ in finished(tpe)] == [o.point for o in told]


def test_constraints_are_modelled_from_the_first_violation_on() -> None:
    tpe = search()
    advance(tpe, 4)
    assert all(constraints == {} for _, constraints in finished(tpe))
    told = advance(tpe, 1, violation=0.5)
    assert [constraints for _, constraints in finished(tpe)][-4:] == [{"violation": o.violation} for o in told]
    assert len(finished(tpe)) == 20


def test_pending_points_are_running_trials() -> None:
    tpe = search()
    advance(tpe, 4)
    for _ in range(3):
        tpe.ask()
    running = [t for t in tpe._study.get_trials(deepcopy=False) if t.state.name == "RUNNING"]
    assert len(running) == 3


def test_the_first_points_are_near_the_start_and_anywhere() -> None:
    tpe = search()
    points = np.array([r.point for r in (tpe.ask() for _ in range(200)) if r is not None])
    far = np.abs(points - 0.5).max(axis=1) > 0.8
    assert 0.1 < far.mean() < 0.5


def test_optuna_says_nothing(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.getLogger("optuna").level
    advance(search(), 4)
    assert not caplog.records
    assert capfd.readouterr().err == ""
    assert logging.getLogger("optuna").level == level


def test_failed_outcomes_are_no_lesson() -> None:
    tpe = search()
    request = tpe.ask()
    assert isinstance(request, Request)
    tpe.tell(measured(request, None))
    assert finished(tpe) == []
