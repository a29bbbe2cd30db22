import pytest
from pydantic import ValidationError

from mergeopt.scoring.entry import ObjectiveEntry


def test_a_bound_makes_an_entry_a_constraint():
    assert not ObjectiveEntry(eval="a").is_constraint
    assert ObjectiveEntry(eval="a", at_most=1.5).is_constraint
    assert ObjectiveEntry(eval="a", at_least={"best_parent": 0.9}).is_constraint


@pytest.mark.parametrize(
    "wrong",
    [
        {"evil": "a"},
        {"at_most": {"base": 1.0, "uniform": 1.0}},
        {"at_most": {"parent": 1.0}},
        {"weight": 0},
        {"weight": float("nan")},
        {"limit": -1},
        {"direction": "sideways"},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        ObjectiveEntry(**{"eval": "a", **wrong})


def test_direction_has_a_short_form():
    assert ObjectiveEntry(eval="a", direction="min").direction == "minimize"
