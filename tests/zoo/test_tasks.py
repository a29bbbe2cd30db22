from random import Random

import pytest

from mergeopt.errors import InputError
from mergeopt.zoo.tasks import STOP, TASKS, check, get_task, is_held_out

EXAMPLES = {
    "reverse(abcde)=": "edcba",
    "sort(dbca)=": "abcd",
    "shift(abl)=": "bca",
    "upper(abc)=": "ABC",
    "add(123,45)=": "168",
    "dedup(aabcca)=": "abca",
    "count(a,abcaa)=": "3",
    "rotate(abcd)=": "bcda",
    "ends(abcd)=": "ad",
}


@pytest.mark.parametrize(("question", "answer"), EXAMPLES.items())
def test_each_task_means_what_its_name_says(question: str, answer: str) -> None:
    assert check(question, answer)
    assert not check(question, answer + "a")


def test_every_task_has_an_example() -> None:
    assert {question.partition("(")[0] for question in EXAMPLES} == set(TASKS)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
@pytest.mark.parametrize("held_out", [True, False])
def test_items_are_right_and_on_their_side(task, held_out: bool) -> None:
    rng = Random(0)
    items = [task.item(rng, held_out=held_out) for _ in range(200)]
    assert all(check(item.question, item.answer) for item in items)
    assert all(is_held_out(item.question) == held_out for item in items)
    assert all(item.line == item.question + item.answer + STOP and item.line.count(STOP) == 1 for item in items)
    rng = Random(0)
    assert items == [task.item(rng, held_out=held_out) for _ in range(200)]


def test_an_eighth_is_held_out() -> None:
    share = sum(is_held_out(f"add({a},{b})=") for a in range(100) for b in range(100)) / 10_000
    assert share == pytest.approx(1 / 8, abs=0.01)


def test_what_is_no_question_is_refused() -> None:
    with pytest.raises(InputError, match="reverse"):
        get_task("revers")
    with pytest.raises(InputError, match="not a question"):
        check("reverse abc", "cba")
