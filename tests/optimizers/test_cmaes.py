"""What is special about CMA-ES: noise, many dimensions, far starts."""

import numpy as np
import pytest

from mergeopt.optimizers import Start, create
from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.conformance import bowl, generation, measured
from mergeopt.space.dimension import Dimension


def cube(d: int) -> list[Dimension]:
    return [Dimension(f"x{i}", 0.0, 1.5, 0.5) for i in range(d)]


@pytest.mark.parametrize("d", [12, 100])
def test_the_mean_improves_under_noise(d: int) -> None:
    noise = np.random.default_rng(0)

    def noisy(request: Request) -> Outcome:
        return measured(request, (bowl(request).value or 0.0) / d + noise.normal(0, 0.03))

    optimizer = create("cmaes", [cube(d)], seed=0, trials=320)
    for _ in range(40):
        generation(optimizer, noisy, batch=8)
    consensus = optimizer.consensus()
    assert consensus is not None
    start = bowl(Request(0, (0.5,) * d)).value
    found = bowl(Request(0, consensus[1])).value
    assert start is not None
    assert found is not None
    assert found > start * (0.5 if d == 12 else 0.9)


def test_the_search_is_around_the_first_start() -> None:
    start = (0.2,) * 8
    optimizer = create("cmaes", [cube(8)], seed=0, trials=64, starts=[Start(0, start)])
    points = [r.point for r in (optimizer.ask() for _ in range(40)) if r is not None]
    assert np.abs(np.mean(points[2:], axis=0) - 0.2).max() < 0.2  # the bounds push the mean up a little


def test_a_far_and_good_start_pulls_without_throwing() -> None:
    """A start at the far corner, the best of its population: the next points move towards it and do not scatter."""
    optimizer = create("cmaes", [cube(8)], seed=0, trials=64, starts=[Start(0, (0.3,) * 8), Start(0, (1.5,) * 8)])
    for _ in range(3):
        generation(optimizer, lambda r: measured(r, sum(r.point)), batch=8)
    points = np.array([r.point for r in (optimizer.ask() for _ in range(64)) if r is not None])
    assert points.mean() > 0.4
    assert points.std(axis=0).max() < 0.6
