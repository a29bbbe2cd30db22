"""The grid is full, even, and measured once."""

import itertools

import pytest

from mergeopt.errors import InputError
from mergeopt.optimizers import create
from mergeopt.optimizers.conformance import bowl, generation
from mergeopt.optimizers.grid import levels
from mergeopt.space.dimension import Dimension


def test_levels_fill_the_budget() -> None:
    assert levels(1, 7) == [7]
    assert levels(3, 60) == [4, 4, 3]
    assert levels(3, 64) == [4, 4, 4]
    assert levels(2, 1) == [2, 2]
    with pytest.raises(InputError, match=r"2\^24"):
        levels(24, 100)


def test_every_combination_once() -> None:
    dimensions = (Dimension("x", 0.0, 1.0, 0.5), Dimension("y", 0.01, 1.0, 0.1, log=True), Dimension("z", 2, 2, 2))
    optimizer = create("grid", [dimensions], seed=0, trials=10)
    points = [o.request.point for _ in range(4) for o in generation(optimizer, bowl)]
    assert optimizer.ask() is None
    assert points[0] == (0.5, 0.1, 2)  # init, which lies on the grid
    assert sorted((x, round(y, 9), z) for x, y, z in points) == sorted(
        itertools.product((0.0, 0.5, 1.0), (0.01, 0.1, 1.0), (2,))
    )
