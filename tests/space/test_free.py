import copy
from typing import Any

import pytest

from mergeopt.errors import InputError
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.write import to_yaml
from mergeopt.space.free import free
from mergeopt.space.space import parse_space
from tests.space.conftest import assert_written_as_meant, document, make_shape

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


def sliced(data: dict[str, Any]) -> dict[str, Any]:
    """The same models in two slices; the gradient lists restart in each."""
    slices = [
        {"sources": [model | {"layer_range": layers} for model in copy.deepcopy(data["models"])]}
        for layers in ([0, 2], [2, 4])
    ]
    return {key: value for key, value in data.items() if key != "models"} | {"slices": slices}


@pytest.mark.parametrize("in_slices", [False, True])
def test_the_start_is_the_recipe_itself(in_slices: bool) -> None:
    plain = document(PLAIN)
    if in_slices:
        plain = document(to_yaml(sliced(plain.data)))
    shape = make_shape(4)
    freed = free(plain, ["weight", "density"])
    (branch,) = parse_space(freed, schemas=SCHEMAS, shape_of=lambda _: shape).branches
    assert len(branch.dimensions) == (12 if in_slices else 7)  # of three points, a slice of two layers reads two
    (fixed,) = parse_space(plain, schemas=SCHEMAS, shape_of=lambda _: shape).branches
    for source in (1, 2):
        for tensor in shape:
            for key in ("weight", "density"):
                wanted = fixed.intended((), source, key, tensor.name)
                assert branch.intended(branch.init, source, key, tensor.name) == pytest.approx(wanted), tensor.name
    assert_written_as_meant(branch, branch.init, lambda _: shape)


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
