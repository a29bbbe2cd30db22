import pytest

from mergeopt.errors import InputError
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.write import recipe_data
from mergeopt.space.free import free
from mergeopt.space.space import parse_space
from tests.space.conftest import document, make_shape, names

PLAIN = """
merge_method: ties
base_model: zoo/base
models:
  - model: zoo/base
  - model: zoo/a
    parameters:
      weight: [0.1, 0.9, 0.4]
      density: 0.02
  - model: zoo/b
    parameters:
      weight: [{filter: mlp, value: 1.0}, {value: -0.2}]
parameters: {lambda: 1, normalize: true}
"""


def test_numbers_become_holes_that_start_where_they_were() -> None:
    data = free(document(PLAIN), ["weight", "density", "lambda"]).data
    base, a, b = data["models"]
    assert base == {"model": "zoo/base"}
    assert a["parameters"]["weight"] == {"range": [0.0, 1.8], "init": [0.1, 0.9, 0.4], "depth": 3, "outer": 0.1}
    assert a["parameters"]["density"] == {"range": [0.02, 1.0], "init": 0.02}
    assert b["parameters"]["weight"][1]["value"] == {"range": [-0.4, 1.5], "init": -0.2}
    assert b["parameters"]["density"] == {"range": [0.05, 1.0], "init": 1.0}
    assert data["parameters"] == {"lambda": {"range": [0.3, 2.0], "init": 1.0}, "normalize": True}


@pytest.mark.parametrize("sliced", [False, True])
def test_the_start_is_the_recipe_itself(sliced: bool) -> None:
    text = PLAIN
    if sliced:
        head, models = PLAIN.split("models:")
        sources = models.split("parameters: {lambda")[0].replace("\n  ", "\n      ").replace("zoo/", "zoo/")
        for name in ("base", "a", "b"):
            sources = sources.replace(f"model: zoo/{name}", f"model: zoo/{name}\n        layer_range: [0, 2]")
        later = sources.replace("[0, 2]", "[2, 4]")
        text = f"{head}slices:\n  - sources:{sources}\n  - sources:{later}\nparameters: {{lambda: 1}}\n"
    shape = make_shape(4)
    freed = free(document(text), ["weight", "density"])
    (branch,) = parse_space(freed, schemas=SCHEMAS, shape_of=lambda _: shape).branches
    assert len(branch.dimensions) == (14 if sliced else 7)
    (plain,) = parse_space(document(text), schemas=SCHEMAS, shape_of=lambda _: shape).branches
    for source in (1, 2):
        for tensor in shape:
            for key in ("weight", "density"):
                wanted = plain.intended((), source, key, tensor.name)
                assert branch.intended(branch.init, source, key, tensor.name) == pytest.approx(wanted), tensor.name
    read = read_recipe(document(text), SCHEMAS).recipe
    assert recipe_data(read)["merge_method"] == "ties"
    assert all("." in name for name in names(branch))


@pytest.mark.parametrize(
    ("keys", "problem"),
    [(["wieght"], "did you mean 'weight'"), (["epsilon"], "known: density"), (["t"], "no number for 't'")],
)
def test_what_cannot_be_freed(keys: list[str], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        free(document(PLAIN), keys)


def test_a_density_given_for_all_is_the_only_one() -> None:
    text = PLAIN.replace("      density: 0.02\n", "").replace("lambda: 1", "density: 0.5")
    data = free(document(text), ["density"]).data
    assert data["parameters"]["density"] == {"range": [0.05, 1.0], "init": 0.5}
    assert all("density" not in model.get("parameters", {}) for model in data["models"])
