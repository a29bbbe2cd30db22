from dataclasses import replace

import pytest

from mergeopt.errors import InputError
from mergeopt.zoo.spec import DEMO, Specialist, Stage


def test_the_demo_is_uneven_and_replays() -> None:
    stages = [specialist.stage for specialist in DEMO.specialists]
    assert len({stage.steps for stage in stages}) == len(stages) == 4
    assert all(0.3 <= stage.replay <= 0.45 for stage in stages)
    assert {specialist.task for specialist in DEMO.specialists} < set(DEMO.mixture)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architecture": "lama"}, "lama"),
        ({"hidden": 100, "heads": 3}, "100"),
        ({"mixture": ()}, "mixture"),
        ({"mixture": ("revers",)}, "reverse"),
        ({"specialists": ()}, "specialist"),
        ({"specialists": DEMO.specialists[:1] * 2}, "once"),
    ],
)
def test_a_family_that_cannot_be_is_refused(change, named: str) -> None:
    with pytest.raises(InputError, match=named):
        replace(DEMO, **change)


@pytest.mark.parametrize("numbers", [(0, 1e-3, 0.3), (5, 0.0, 0.3), (5, 1e-3, 1.1)])
def test_a_stage_that_cannot_be_trained_is_refused(numbers) -> None:
    with pytest.raises(InputError):
        Stage(*numbers)


def test_a_specialist_of_no_task_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'sort'"):
        Specialist("sorts", DEMO.base)
