import pytest

from mergeopt.errors import InputError
from mergeopt.space.filters import Group, Names, arrange


def settle(order: list[tuple[str | None, int]], name: str) -> int | None:
    """The group that mergekit's first-match rule gives."""
    return next((group for word, group in order if word is None or word in name), None)


def group(*names: str, wanted: tuple[str, ...] = (), fallback: bool = False) -> Group:
    return Group(names, wanted, tuple(name.split(".", 2)[2] for name in names if name.startswith("layers.")), fallback)


def test_wanted_filters_first_and_the_rest_last() -> None:
    names = Names(["layers.0.mlp.up", "layers.0.attn.q", "head"])
    groups = [group("layers.0.mlp.up", wanted=("mlp",)), group("layers.0.attn.q", "head", fallback=True)]
    assert arrange(names, groups) == [("mlp", 0), (None, 1)]


def test_a_module_inside_another_modules_name_waits_for_it_or_takes_its_dot() -> None:
    names = Names(["layers.0.up_proj.weight", "layers.0.gate_up_proj.weight"])
    groups = [group(names.names[0], wanted=("up_proj",)), group(names.names[1], wanted=("gate_up_proj",))]
    order = arrange(names, groups)
    assert [settle(order, name) for name in names.names] == [0, 1]


def test_names_of_no_group_stay_unmatched() -> None:
    names = Names(["layers.0.mlp.up", "layers.0.attn.q"])
    order = arrange(names, [group("layers.0.mlp.up", fallback=True)])
    assert [settle(order, name) for name in names.names] == [0, None]


def test_what_no_order_can_separate_is_refused() -> None:
    names = Names(["norm", "final_norm"])
    with pytest.raises(InputError, match="'norm'"):
        arrange(names, [Group(("norm",), (), (), False)])  # final_norm belongs to a lower scope
    assert arrange(names, [Group(("norm",), (), (), False), Group(("final_norm",), (), (), True)]) == [
        ("final_norm", 1),
        ("norm", 0),
    ]
