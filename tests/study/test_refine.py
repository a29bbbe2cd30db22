"""Learning below the tensor: it helps, can be killed, and comes back from where it went astray."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mergeopt.merge.refinement import KINDS, Key, Refinement
from mergeopt.recipe.recipe import Recipe
from mergeopt.scoring.learning.loss import evaluate
from mergeopt.study import refine
from mergeopt.study.events import Event, Listener, Notice, StepDone
from mergeopt.study.refine import Refiner, _Descent
from tests.study.family import recipe, search_data
from tests.study.test_lessons import Lessons, learned


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out losses every few steps."""
    monkeypatch.setattr(refine, "CHECK", 4)


@pytest.fixture
def lessons(work: Path, tmp_path: Path) -> Lessons:
    return learned(search_data(method="gradient", portable=False), tmp_path)


def refiner(
    lessons: Lessons,
    path: Path,
    listener: Listener = lambda event: None,
    *,
    kind: str = "rows+columns",
    steps: int = 18,
) -> Refiner:
    return Refiner(
        lessons.bench,
        lessons.made,
        kind=kind,
        steps=steps,
        size=4,
        path=path,
        listener=listener,
        note=dict[int, float]().__setitem__,
    )


def middle(lessons: Lessons) -> Recipe:
    return lessons.job.recipe_at(0, (0.5, 0.5))


def loss(lessons: Lessons, refinement: Refinement | None) -> float:
    live = lessons.bench.become(middle(lessons), refinement).model
    return evaluate(live, lessons.made.part("held_out")).mean


@pytest.mark.parametrize("kind", KINDS)
def test_the_held_out_loss_falls(kind: str, lessons: Lessons, tmp_path: Path) -> None:
    made = refiner(lessons, tmp_path / "state", kind=kind)
    found = made.run(middle(lessons), "x")
    assert found is not None
    assert {key.axis for key in found.values} == {"rows", *KINDS[kind]}
    before, after = loss(lessons, None), loss(lessons, found)
    assert made.held_out(middle(lessons)) == before and after < 0.9 * before
    assert made.spent.steps == 18 and made.spent.tokens > 0 and made.spent.seconds > 0


@pytest.mark.parametrize("stop", [2, 5, 9, 17, 18])
def test_a_killed_refinement_goes_on_to_the_same_numbers(stop: int, lessons: Lessons, tmp_path: Path) -> None:
    whole = refiner(lessons, tmp_path / "whole")
    expected = whole.run(middle(lessons), "x")
    assert expected is not None
    events = list[Event]()

    def killing(event: Event) -> None:
        if isinstance(event, StepDone) and event.gradient and event.number == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refiner(lessons, tmp_path / "cut", killing).run(middle(lessons), "x")
    again = refiner(lessons, tmp_path / "cut", events.append)
    found = again.run(middle(lessons), "x")
    assert found is not None and found.encoded() == expected.encoded()
    steps = [event.number for event in events if isinstance(event, StepDone) and event.gradient]
    assert steps == list(range((stop - 1) // 4 * 4 + 1, 19))  # on from the last check
    assert (again.spent.steps, again.spent.tokens) == (whole.spent.steps, whole.spent.tokens)
    assert sorted(path.name for path in tmp_path.iterdir() if "cut" in path.name) == ["cut"]


def test_what_is_kept_is_an_average_of_the_last_steps() -> None:
    key = Key("w", 0, "rows")
    descent = _Descent({key: torch.zeros(3)}, steps=1000)
    steps = list[torch.Tensor]()
    for sign in (1.0, -1.0) * 40:  # to and fro
        descent.step({key: torch.full((3,), sign)})
        steps.append(descent.refinement.values[key])
    averages = torch.stack(steps[: refine.HORIZON]).mean(0)
    descent.judge(1.0)
    assert descent.best is not None and descent.best[key].equal(descent.average.values[key])
    assert (descent.average.values[key] - averages).abs().max() < torch.stack(steps).std()
    again = _Descent({key: torch.zeros(3)}, steps=1000)
    again.restore(descent.state())
    assert again.average.values[key].equal(descent.average.values[key])
    descent.retreat()
    assert descent.average.values[key].equal(descent.refinement.values[key])


def test_a_finished_refinement_is_not_run_again(lessons: Lessons, tmp_path: Path) -> None:
    first = refiner(lessons, tmp_path / "state").run(middle(lessons), "x")
    events = list[Event]()
    again = refiner(lessons, tmp_path / "state", events.append).run(middle(lessons), "x")
    assert first is not None and again is not None and again.encoded() == first.encoded()
    assert events == []


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def nothing(path: Path) -> None:
    del path


@pytest.mark.parametrize(("change", "identity"), [(damaged, "x"), (nothing, "another")])
def test_a_state_of_something_else_is_not_gone_on_with(
    change: Callable[[Path], None], identity: str, lessons: Lessons, tmp_path: Path
) -> None:
    expected = refiner(lessons, tmp_path / "state").run(middle(lessons), "x")
    change(tmp_path / "state")
    events = list[Event]()
    found = refiner(lessons, tmp_path / "state", events.append).run(middle(lessons), identity)
    assert found is not None and expected is not None and found.encoded() == expected.encoded()
    assert sum(isinstance(event, StepDone) and event.gradient for event in events) == 18


def test_a_loss_that_diverges_is_retreated_from(
    lessons: Lessons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("CHECK", 20), ("STEP", 30.0), ("WARM_UP", 30)):  # the first losses are tame
        monkeypatch.setattr(refine, name, value)
    said = list[str]()
    made = refiner(lessons, tmp_path / "s", lambda e: said.append(e.text) if isinstance(e, Notice) else None, steps=60)
    found = made.run(middle(lessons), "x")
    assert 1 <= len(said) <= refine.RETREATS + 1
    assert all(text.endswith(": the loss doubled; back with half the step") for text in said)
    assert loss(lessons, found) <= loss(lessons, None)


def test_numbers_that_are_not_finite_are_retreated_from(
    lessons: Lessons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refine, "STEP", 1e39)
    said = list[str]()
    made = refiner(lessons, tmp_path / "s", lambda e: said.append(e.text) if isinstance(e, Notice) else None)
    assert made.run(middle(lessons), "x") is None
    assert said and all("NaN" in text or "doubled" in text for text in said)


def test_where_nothing_is_better_there_is_none(work: Path, tmp_path: Path) -> None:
    """The only teacher is what is refined."""
    data: Any = search_data(recipe(method="task_arithmetic"), evals=("sort_lines",), method="gradient", portable=False)
    lessons = learned(data, tmp_path)
    teacher = lessons.job.recipe_at(0, (0.0, 1.0))
    made = refiner(lessons, tmp_path / "state", steps=40)
    assert made.held_out(teacher) == pytest.approx(0.0, abs=1e-6)
    assert made.run(teacher, "x") is None
    assert 0 < made.spent.steps < 40  # it soon gives up
    assert refiner(lessons, tmp_path / "state", steps=40).run(teacher, "x") is None


def test_a_recipe_that_fails_has_no_held_out_loss(work: Path, tmp_path: Path) -> None:
    lessons = learned(
        search_data(recipe({"range": [0.5, 3e38], "init": 0.5}) | {"dtype": "float16"}, method="auto"), tmp_path
    )
    made = refiner(lessons, tmp_path / "state")
    assert made.held_out(lessons.job.recipe_at(0, (3e38, 3e38))) == float("inf")
    assert torch.isfinite(torch.tensor(made.held_out(lessons.job.recipe_at(0, (0.5, 0.5)))))
