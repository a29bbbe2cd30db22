"""The unit cube is a faithful map, and never leaves the bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergeopt.optimizers.cube import Cube
from mergeopt.space.dimension import Dimension

DIMENSIONS = (
    Dimension("weight", -0.5, 1.5, 0.5),
    Dimension("rate", 1e-4, 1.0, 1e-2, log=True),
    Dimension("fixed", 0.3, 0.3, 0.3),
)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_there_and_back(unit: list[float]) -> None:
    cube = Cube(DIMENSIONS)
    point = cube.outside(np.array(unit))
    assert all(d.low <= x <= d.high for d, x in zip(DIMENSIONS, point, strict=True))
    np.testing.assert_allclose(cube.inside(point)[:2], unit[:2], atol=1e-9)
    assert point[2] == 0.3


def test_the_middle_of_a_log_range_is_its_geometric_mean() -> None:
    assert Cube(DIMENSIONS).outside(np.full(3, 0.5)) == pytest.approx((0.5, 1e-2, 0.3))


def test_points_outside_are_clipped() -> None:
    assert Cube(DIMENSIONS).inside((9.0, 1e-9, 0.3)).tolist() == [1.0, 0.0, 0.5]


def test_no_dimensions() -> None:
    assert Cube(()).outside(Cube(()).inside(())) == ()


def test_slopes_turn_gradients_into_unit_coordinates() -> None:
    cube, unit = Cube(DIMENSIONS), np.array([0.3, 0.6, 0.5])
    step = np.array([1e-6, 1e-6, 1e-6])
    differences = (np.array(cube.outside(unit + step)) - np.array(cube.outside(unit - step))) / 2e-6
    np.testing.assert_allclose(cube.slopes(cube.outside(unit)), differences, rtol=1e-6)
