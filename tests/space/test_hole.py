import pytest

from mergeopt.errors import InputError
from mergeopt.space.hole import Choice, Hole, number
from mergeopt.space.tree import found, read_tree
from tests.space.conftest import document

RECIPE = """
merge_method: ties
models:
  - model: zoo/a
    parameters:
      weight: {hole}
"""


def read(hole: str) -> Hole | Choice:
    tree = read_tree(document(RECIPE.replace("{hole}", hole)))
    return next(value for _, value in found(tree, (Hole, Choice)))


def test_a_hole_with_every_key() -> None:
    hole = read(
        "{range: [1e-3, 2], init: [0.1, 1], depth: 2, log: true, share: w, parts: [attn, mlp], outer: {range: [0, 1]}}"
    )
    assert isinstance(hole, Hole) and isinstance(hole.outer, Hole)
    assert (hole.low, hole.high, hole.init, hole.depth, hole.log) == (0.001, 2.0, (0.1, 1.0), 2, True)
    assert (hole.parts, hole.share, hole.outer.high) == (("attn", "mlp"), "w", 1.0)
    assert hole.outer.order != hole.order


@pytest.mark.parametrize(
    ("hole", "problem"),
    [
        ("{range: [1, 0]}", "range [1, 0] is empty; write the lower number first"),
        ("{range: [1, 1]}", "is empty"),
        ("{range: 1}", "write range: [low, high]"),
        ("{range: [a, 1]}", "range has 'a' where a number belongs"),
        ("{range: [0, 1], log: true}", "a logarithm cannot reach down to 0"),
        ("{range: [0, 1], log: yes please}", "write log: true"),
        ("{range: [0, 1], init: 2}", "init 2 lies outside the range [0, 1]"),
        ("{range: [0, 1], init: [0, 1]}", "add depth"),
        ("{range: [0, 1], init: [0, 1], depth: 3}", "init has 2 values and depth 3"),
        ("{range: [0, 1], depth: 0}", "depth is 0"),
        ("{range: [0, 1], depth: layer}", "depth is 'layer'"),
        ("{range: [0, 1], depth: 9007199254740993}", "depth is 9007199254740993; at most 10000"),
        ("{range: [0, 1], parts: block}", "did you mean 'blocks'?"),
        ("{range: [0, 1], parts: [a, a]}", "lists a filter twice"),
        ("{range: [0, 1], detph: 3}", "a hole has no key 'detph'; did you mean 'depth'?"),
        ("{rnage: [0, 1]}", "did you mean 'range'?"),
        ("{filter: mlp, range: [0, 1]}", "write {filter: mlp, value: {range: [0, 1]}}"),
        ("{range: [0, 1], choice: [0, 1]}", "both range and choice"),
        ("{range: [0, 1], outer: {range: [0, 1], depth: 2}}", "'depth' does not go with outer"),
        ("{range: [0, 1], outer: all}", "outer has 'all' where a hole, a number or each belongs"),
        ("{choice: [0, 1], depth: 2}", "'depth' does not go with choice"),
        ("{choice: []}", "choice is []"),
        ("{choice: [1, 1]}", "lists a value twice"),
        ("{choice: [[0, 1]]}", "cannot choose [0, 1]"),
        ("{share: rest}", "no hole is shared as 'rest'"),
        ("{share: rest, depth: 2}", "also gives depth"),
        ("[{range: [0, 1], depth: 2}, 1]", "inside a gradient list"),
    ],
)
def test_what_the_grammar_refuses(hole: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        read(hole)
    assert problem in str(caught.value)
    assert str(caught.value).startswith("space.yml:6 models[0].parameters.weight")


def test_shares_must_agree_and_exist() -> None:
    twice = "[{filter: mlp, value: {range: [0, 1], share: a}}, {value: {range: [0, 2], share: a}}]"
    with pytest.raises(InputError, match="defined twice, and differently"):
        read(twice)
    assert isinstance(read(twice.replace("2]", "1]")), Hole)
    with pytest.raises(InputError, match="did you mean 'rest'"):
        read("[{filter: mlp, value: {range: [0, 1], share: rest}}, {value: {share: rst}}]")


def test_a_range_stands_only_in_settings() -> None:
    with pytest.raises(InputError, match="a range cannot stand here"):
        read_tree(document("merge_method: ties\nseed: {range: [0, 1]}"))


@pytest.mark.parametrize(
    ("value", "wanted"), [("1e-3", 0.001), (2, 2.0), (True, None), ("x", None), (None, None), (float("nan"), None)]
)
def test_number(value: object, wanted: float | None) -> None:
    assert number(value) == wanted
