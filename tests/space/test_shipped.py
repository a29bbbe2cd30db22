"""Every search space that ships is a space, and is written as meant."""

from pathlib import Path
from typing import Any

import pytest

from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import read_document
from mergeopt.space.space import parse_space
from mergeopt.zoo.spec import DEMO
from tests.space.conftest import assert_written_as_meant, make_shape

FOLDER = Path(__file__).parents[2]
SPACES = sorted((FOLDER / "search_spaces").glob("*.yml"))


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_shipped_space(path: Path) -> None:
    whole = read_document(path)
    assert set(whole.data) <= {"recipe", "objective", "optimize", "learn"}
    shape = make_shape(DEMO.layers)
    space = parse_space(whole.part("recipe"), schemas=SCHEMAS, shape_of=lambda _: shape)
    for branch in space.branches:
        assert branch.dimensions or "chain" in whole.data["recipe"]
        assert_written_as_meant(branch, [(d.low + 2 * d.high) / 3 for d in branch.dimensions], lambda _: shape)
    assert all("does not read" in notice for notice in space.notices)
    family = {"base", *(specialist.task for specialist in DEMO.specialists)}
    assert {model.removeprefix("runs/zoo/") for model in models_of(whole.data["recipe"])} <= family
    assert all((FOLDER / entry["eval"]).is_file() for entry in whole.data["objective"])


def models_of(recipe: Any) -> list[str]:
    if "chain" in recipe:
        order: list[str] = recipe["chain"]["order"]
        return order
    return [recipe["base_model"], *(model["model"] for model in recipe["models"])]


def test_there_are_spaces_and_each_begins_with_what_it_is_for() -> None:
    assert len(SPACES) >= 8
    for path in SPACES:
        head = path.read_text().split("\nrecipe:", 1)[0].splitlines()
        assert 3 <= len(head) <= 7 and all(line.startswith("#") for line in head), path.name
