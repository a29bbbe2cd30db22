"""The recipes that every search is compared with."""

from pathlib import Path

import pytest

from mergeopt.errors import InputError
from mergeopt.merge.layout import lay_out
from mergeopt.merge.plan import fill
from mergeopt.merge.sources import facts, open_models
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import parse_document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import ModelRef, Recipe
from mergeopt.recipe.write import recipe_data, to_yaml
from mergeopt.study.references import Contender, closed_forms, contenders, fixed, named, parents, tuned
from tests.study.family import recipe, write_yaml


def read(data: object) -> Recipe:
    return read_recipe(parse_document(to_yaml(data), "r.yml"), SCHEMAS).recipe


TWO = read(recipe(0.5))


def test_parents_are_the_models_as_they_are() -> None:
    found = parents(TWO)
    assert [(c.name, c.kind) for c in found] == [("zoo/base", "base"), ("zoo/upper", "parent"), ("zoo/sort", "parent")]
    assert recipe_data(found[1].recipe) == {
        "merge_method": "passthrough",
        "models": [{"model": "zoo/upper"}],
        "dtype": "float32",
    }


def test_fixed_recipes_are_those_people_use(work: Path) -> None:
    found = {c.name: recipe_data(c.recipe) for c in fixed(TWO)}
    assert list(found) == ["uniform", "task_arithmetic 0.4", "ties 0.5/0.5", "dare_ties 0.5/0.5"]
    assert found["uniform"]["merge_method"] == "linear" and "base_model" not in found["uniform"]
    assert [m["parameters"] for m in found["uniform"]["models"]] == [{"weight": 0.5}] * 2
    assert found["ties 0.5/0.5"]["base_model"] == "zoo/base"
    assert [m["parameters"] for m in found["ties 0.5/0.5"]["models"]] == [{"weight": 0.5, "density": 0.5}] * 2


def test_closed_forms_are_plain_recipes_that_differ(work: Path) -> None:
    opened = open_models(TWO.models, None)
    found = {c.name: c for c in closed_forms(TWO, opened)}
    assert list(found) == ["metagpt", "least squares"]
    weights = {}
    for name in ("metagpt", "least squares"):
        contender = found[name]
        assert contender.kind == "fixed" and contender.recipe.base == TWO.base
        assert read(recipe_data(contender.recipe)) == contender.recipe
        lay = lay_out(contender.recipe, facts(opened), SCHEMAS["task_arithmetic"])
        plan = fill(lay, contender.recipe, SCHEMAS["task_arithmetic"])
        weights[name] = {job.tensor: job.coefficients["weight"] for job in plan.jobs}
    assert {round(sum(pair), 3) for pair in weights["metagpt"].values()} == {1.0}
    assert len(set(weights["metagpt"].values())) == 1 < len(set(weights["least squares"].values()))


def test_closed_forms_need_whole_models_that_differ_from_the_base(work: Path) -> None:
    opened = open_models(TWO.models, None)
    slices = [{"sources": [{"model": f"zoo/{task}", "layer_range": [0, 2]} for task in ("upper", "sort", "base")]}]
    sliced = recipe(0.5, slices=slices, parameters={"weight": 0.5})
    del sliced["models"]
    assert closed_forms(read(sliced), opened) == []
    one = recipe(0.5)
    del one["models"][1]
    assert closed_forms(read(one), opened) == []
    base = opened[ModelRef("zoo/base")]
    assert closed_forms(TWO, dict.fromkeys(TWO.models, base)) == []


def test_without_a_base_there_is_only_the_average() -> None:
    slerp = read(recipe(0.5, method="linear"))
    assert [c.name for c in parents(slerp)] == ["zoo/upper", "zoo/sort"]
    assert [c.name for c in fixed(slerp)] == ["uniform"] and closed_forms(slerp, {}) == []


def test_one_model_is_averaged_with_its_base() -> None:
    one = recipe(0.5)
    del one["models"][1]
    uniform = fixed(read(one))[0]
    assert [str(ref) for ref in uniform.recipe.models] == ["zoo/upper", "zoo/base"]


def test_what_may_be_returned() -> None:
    assert [kind for kind in ("base", "parent", "fixed", "start", "compare", "learned")
            if not Contender("x", kind, TWO).eligible] == ["compare"]  # fmt: skip


def test_names_are_told_apart(work: Path, tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        write_yaml(tmp_path / folder / "known.yaml", recipe(0.3))
    listed = named(["a/known.yaml"], ["b/known.yaml", "c/known.yaml", "zoo/multitask"], tmp_path, TWO)
    assert [(c.name, c.kind) for c in listed][3] == ("zoo/multitask", "compare")
    odd = [Contender(name, "start", TWO) for name in ("uniform", "consensus", "trial 3")]
    opened = open_models([*TWO.models, ModelRef("zoo/multitask")], None)
    found, left = contenders(TWO, [*listed, *odd], opened)
    assert [c.name for c in found][-7:] == [
        "known", "known (compare)", "known (compare 2)", "zoo/multitask",
        "uniform (start)", "consensus (start)", "trial 3 (start)",
    ]  # fmt: skip
    assert left == []


def test_what_cannot_be_made_is_left_out_and_said(work: Path, models: Path) -> None:
    """Frankenmerges name models that cannot be averaged; asked-for recipes must fit."""
    (models / "zoo").symlink_to(work / "zoo")
    mixed = read(
        {
            "merge_method": "passthrough",
            "slices": [{"sources": [{"model": name, "layer_range": [0, 2]}]} for name in ("zoo/upper", "a")],
        }
    )
    opened = open_models(mixed.models, None)
    found, left = contenders(mixed, [], opened)
    assert [c.name for c in found] == ["zoo/upper", "a"]
    assert len(left) == 1 and left[0].startswith("'uniform' is not in the comparison: ")
    asked = Contender("mine", "compare", read({"merge_method": "linear", "models": [
        {"model": m, "parameters": {"weight": 1}} for m in ("zoo/upper", "a")]}))  # fmt: skip
    with pytest.raises(InputError):
        contenders(mixed, [asked], opened)
    assert [str(ref) for ref in tuned(mixed)] == ["zoo/upper", "a"]
