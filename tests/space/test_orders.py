"""Every order of a chain is a branch of its last step; the steps before are documents of their own."""

from textwrap import dedent
from typing import Any

import pytest

from mergeopt.errors import InputError
from mergeopt.methods import SCHEMAS
from mergeopt.space.orders import earlier_steps
from mergeopt.space.space import check_space
from tests.space.conftest import document, names, space_of

ALL = """\
merge_method: slerp
chain: {order: [a, b, c]}
parameters: {t: 0.5}
"""
SOME = """\
merge_method: ties
base_model: base
chain:
  choice:
    - [a, b, c]
    - - model: b
      - model: a
        parameters: {density: 0.3}
      - model: c
        parameters: {weight: {range: [0, 1]}}
parameters: {weight: 0.5}
"""


def steps(text: str) -> dict[str, Any]:
    return {step.data["name"]: step.data for step in earlier_steps(document(text), SCHEMAS)}


def test_every_order_is_a_branch() -> None:
    branches = space_of(ALL).branches
    assert [branch.name for branch in branches] == [
        f"order={' > '.join(order)}" for order in ("abc", "acb", "bac", "bca", "cab", "cba")
    ]
    assert all(branch.dimensions == () for branch in branches)
    made = steps(ALL)
    for branch in branches:
        last = branch.recipe(())
        before = made[last["base_model"]]
        order = [before["models"][0]["model"], before["models"][1]["model"], last["models"][1]["model"]]
        assert branch.name == f"order={' > '.join(order)}" and before["base_model"] == order[0]


def test_steps_of_two_orders_are_made_once() -> None:
    made = steps(ALL.replace("[a, b, c]", "[a, b, c, d]"))
    pairs = [name for name, data in made.items() if not data["models"][0]["model"].startswith("step-")]
    assert (len(made), len(pairs)) == (36, 12) and list(made)[:2] == ["step-1", "step-2"]
    assert list(steps(SOME)) == ["step-1", "step-2"]
    assert list(steps(SOME.replace("[a,", "[step-1,"))) == ["step-2", "step-3"]


def test_listed_orders_have_entries_of_their_own_and_ranges_in_the_last() -> None:
    first, second = space_of(SOME).branches
    assert (names(first), names(second)) == ([], ["c.weight"])
    assert second.name == "order=b > a > c" and second.recipe((0.25,))["models"] == [
        {"model": "step-2"},
        {"model": "c", "parameters": {"weight": 0.25}},
    ]
    assert steps(SOME)["step-2"]["models"][1] == {"model": "a", "parameters": {"density": 0.3}}


def test_choices_multiply_with_the_orders() -> None:
    text = ALL.replace("t: 0.5", "t: {choice: [0.3, 0.7]}").replace("slerp", "{choice: [slerp, nuslerp]}")
    with pytest.raises(InputError, match="'weight'"):  # nuslerp reads no t
        space_of(text)
    branches = space_of(ALL.replace("t: 0.5", "t: {choice: [0.3, 0.7]}")).branches
    assert len(branches) == 12 and branches[1].name == "order=a > b > c, t=0.7"
    assert branches[1].recipe(())["parameters"] == {"t": 0.7}


def test_a_plain_chain_is_one_branch() -> None:
    text = ALL.replace("{order: [a, b, c]}", "[a, b, {model: c, parameters: {t: {range: [0, 1]}}}]")
    (branch,) = space_of(text).branches
    assert (branch.name, names(branch), list(steps(text))) == ("", ["t"], ["step-1"])


def test_the_same_models_with_other_settings_are_another_order() -> None:
    text = ALL.replace("order: [a, b, c]", "choice: [[a, b], [a, {model: b, parameters: {t: 0.1}}], [b, a]]")
    assert [branch.name for branch in space_of(text).branches] == ["order=a > b", "order=a > b (2)", "order=b > a"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("order: [a, b, c]", "order: [a, b, c, d, e]", "space.yml:2 chain.order: 5 models have 120 orders; at most 24"),
        ("order: [a, b, c]", "order: a", "space.yml:2 chain.order: order is 'a'; write chain: {order: [a, b, c]}"),
        ("order: [a, b, c]", "order: [a, b, a]", 'chain.order: order lists "a" twice'),
        ("order: [a, b, c]", "choice: [a, b, c]", "chain.choice: choice is ['a', 'b', 'c']; write chain:"),
        ("order: [a, b, c]", "choice: [[a, b], [a, b]]", 'chain.choice: choice lists ["a", "b"] twice'),
        ("order: [a, b, c]", "ordre: [a, b, c]", "chain.ordre: chain has no key 'ordre'; did you mean 'order'?"),
        ("order: [a, b, c]", "order: [a, b], choice: [[a, b]]", "chain: chain has 'order' and 'choice'"),
        ("order: [a, b, c]", "order: [a, {modle: b}, c]", "chain[1]: {'modle': 'b'} is no model"),
        ("t: 0.5", "t: {range: [0, 1]}", "space.yml:3 parameters.t: a range in a step before the last of a chain"),
        ("t: 0.5", "t: {choice: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}", "chain: orders and choices make more than 64"),
    ],
)
def test_mistakes(old: str, new: str, says: str) -> None:
    for read in (space_of, lambda text: check_space(document(text), schemas=SCHEMAS)):
        with pytest.raises(InputError) as caught:
            read(dedent(ALL.replace(old, new)))
        assert says in str(caught.value)
