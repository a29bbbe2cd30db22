"""Steps along the directions of a level, and the signal in noisy gradients."""

import numpy as np
import pytest

from mergeopt.optimizers.descent import Descent, Directions, signal
from mergeopt.space.levels import Level

LEVEL = Level("depth", (((0, 1.0), (1, 0.5)), ((1, 0.5), (2, 1.0))))
COLUMNS = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])


def test_directions_are_a_sparse_matrix() -> None:
    directions, rng = Directions(LEVEL), np.random.default_rng(0)
    theta, gradients = rng.normal(size=2), rng.normal(size=(5, 3))
    np.testing.assert_allclose(directions.step(theta, 3), COLUMNS @ theta)
    np.testing.assert_allclose(directions.along(gradients), gradients @ COLUMNS)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_it_finds_the_best_that_its_directions_can_say_whatever_the_scale(scale: float) -> None:
    optimum = np.array([0.7, 0.1, 0.4])
    descent = Descent(Directions(LEVEL), np.full(3, 0.5), 150)
    while not descent.over:
        descent.step(scale * (descent.x - optimum))
    theta, *_ = np.linalg.lstsq(COLUMNS, optimum - 0.5, rcond=None)
    np.testing.assert_allclose(descent.x, 0.5 + COLUMNS @ theta, atol=5e-3)


def test_bounds_hold_and_do_not_glue() -> None:
    descent = Descent(Directions(Level("source", (((0, 1.0),),))), np.array([0.9]), 400)
    for _ in range(60):
        descent.step(np.array([-1.0]))
    assert descent.x[0] == 1.0
    for _ in range(40):
        descent.step(np.array([1.0]))
    assert descent.x[0] < 0.8


def test_hurrying_gives_up_half_of_what_is_left_without_a_jump() -> None:
    usual, hurried = (Descent(Directions(LEVEL), np.full(3, 0.5), 60) for _ in range(2))
    for descent in (usual, hurried):
        for _ in range(20):
            descent.step(np.ones(3))
    before = hurried.x
    hurried.hurry()
    assert (hurried.steps, usual.steps) == (40, 60)
    for descent in (usual, hurried):
        descent.step(np.ones(3))
    np.testing.assert_allclose(hurried.x, usual.x)
    assert (hurried.x != before).all()


def test_signal_of_noise_is_within_two_standard_errors_and_of_a_mean_above() -> None:
    rng = np.random.default_rng(0)
    noise = np.array([signal(rng.normal(size=(20, 300)) * rng.random(300)) for _ in range(200)])
    assert abs(noise.mean()) < 0.2
    assert (noise > 2).mean() < 0.06
    assert signal(rng.normal(0.2, 1.0, size=(20, 300))) > 4
    assert signal(np.zeros((20, 3))) == 0
