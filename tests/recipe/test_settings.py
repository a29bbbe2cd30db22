"""The language of settings, rule by rule as mergekit has it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergeopt.errors import InputError
from mergeopt.recipe.settings import depth_of, interpolate, parse_setting, plain, resolve

numbers = st.floats(-4, 4)
gradients = st.lists(numbers, min_size=1, max_size=9).map(tuple)
depths = st.floats(0, 1)


def number(data: object, tensor: str = "model.layers.1.mlp.up_proj.weight", depth: float = 0.0) -> object:
    return resolve(parse_setting(data, "float", "here"), tensor, depth)


def test_scalar_and_gradient():
    assert number(0.5) == 0.5
    assert [number([0, 1, 4], depth=d) for d in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 2.5, 4]
    assert number([7], depth=0.3) == 7


def test_depth_restarts_in_each_slice():
    assert [depth_of(i, 5) for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert depth_of(0, 1) == 1  # one layer takes the last value
    assert depth_of(None, 5) == 0  # no layer takes the first


@pytest.mark.parametrize("filter_", [None, "*", "mlp", "up_proj.weight", "layers.1", "model"])
def test_filter_is_a_substring(filter_: str | None):
    entry = {"value": 1.0} | ({"filter": filter_} if filter_ else {})
    assert number([entry, {"value": 2.0}]) == 1.0


def test_filter_of_one_digit_matches_two():
    assert number([{"filter": "layers.1", "value": 1}, {"value": 2}], "model.layers.17.mlp.up_proj.weight") == 1


def test_first_match_wins_and_no_match_is_none():
    setting = [{"filter": "attn", "value": 1}, {"filter": "mlp", "value": 2}, {"filter": "up", "value": 3}]
    assert number(setting) == 2
    assert number(setting[:1]) is None


def test_single_entry_and_empty_gradient():
    assert number({"filter": "mlp", "value": [1, 3]}, depth=0.5) == 2
    assert number([]) is None
    assert number([{"filter": "mlp", "value": []}, {"value": 2}]) == 2


def test_words_and_booleans_step():
    setting = parse_setting([True, False, True], "bool", "here")
    assert [resolve(setting, "x", d) for d in (0, 0.49, 0.5, 0.99, 1)] == [True, True, False, False, True]


@given(gradients, depths)
def test_interpolation_stays_within_its_neighbours(values: tuple[float, ...], depth: float):
    place = depth * (len(values) - 1)
    near = [v for i, v in enumerate(values) if abs(i - place) <= 1]
    assert min(near) - 1e-12 <= interpolate(values, depth) <= max(near) + 1e-12


@given(gradients)
def test_interpolation_meets_its_points_and_is_linear_between(values: tuple[float, ...]):
    assert interpolate(values, 0.0) == values[0]
    assert interpolate(values, 1.0) == values[-1]
    if len(values) > 1:
        width = 1 / (len(values) - 1)
        middle = interpolate(values, width / 2)
        assert middle == pytest.approx((values[0] + values[1]) / 2, abs=1e-9)


@given(gradients)
def test_constant_gradient_is_a_constant(values: tuple[float, ...]):
    assert interpolate((values[0],) * 5, 0.37) == pytest.approx(values[0])


@given(
    st.one_of(
        numbers,
        gradients.map(list),
        st.lists(
            st.builds(lambda f, v: {"filter": f, "value": v}, st.text("abc.", min_size=1), st.one_of(numbers)),
            min_size=1,
            max_size=4,
        ),
    )
)
def test_plain_form_means_the_same(data: object):
    setting = parse_setting(data, "float", "here")
    assert parse_setting(plain(setting), "float", "here") == setting


@pytest.mark.parametrize(
    "data, kind, value",
    [
        ("1e-5", "float", 1e-5),  # YAML 1.1 reads it as text
        (1, "float", 1.0),
        (True, "float", 1.0),
        (1.0, "bool", True),
        ("false", "bool", False),
        ("5", "int", 5),
        (5.0, "int", 5),
    ],
)
def test_kinds_are_read_kindly(data: object, kind: str, value: object):
    result = resolve(parse_setting(data, kind, "here"), "x", 0)
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(
    "data, kind, word",
    [
        ("half", "float", "'half' is not a number"),
        ("0.5`", "float", "stray"),
        (float("nan"), "float", "not a number"),
        (float("inf"), "float", "not a number"),
        (2.5, "int", "whole number"),
        ("perhaps", "bool", "true or false"),
        ([{"filtre": "mlp", "value": 1}], "float", "did you mean 'filter'"),
        ([{"filter": "mlp"}], "float", "has no value"),
        ([{"filter": 3, "value": 1}], "float", "must be text"),
        ([0.5, {"value": 1}], "float", "stands among filter entries"),
        ([[1, 2]], "float", "not a number"),
    ],
)
def test_mistakes_are_named(data: object, kind: str, word: str):
    with pytest.raises(InputError, match=r"^here") as caught:
        parse_setting(data, kind, "here")
    assert word in str(caught.value)
