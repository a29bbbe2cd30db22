"""Modules become one recipe whose slices carry names; tensors find their module by theirs."""

import pytest

from mergeopt.errors import InputError
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import parse_document
from mergeopt.recipe.modules import members, role_of
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.settings import Entry
from mergeopt.recipe.shape import Shape, TensorInfo
from mergeopt.recipe.write import recipe_data, to_yaml
from tests.recipe.conftest import reading, refusal

VISION = """\
merge_method: ties
base_model: base
modules:
  text_decoder:
    models:
      - {model: a, parameters: {weight: 0.5}}
      - {model: b, parameters: {weight: 0.3}}
    parameters: {density: [{filter: mlp, value: 0.3}]}
  vision_tower:
    slices:
      - sources:
          - {model: base, layer_range: [0, 2]}
          - {model: a, layer_range: [0, 2], parameters: {weight: 1}}
parameters: {density: 0.6}
"""


def test_slices_carry_their_module_and_its_settings() -> None:
    recipe = reading(VISION).recipe
    assert recipe.modules == ("text_decoder", "vision_tower")
    text, vision = recipe.slices
    assert text.parameters["density"] == (Entry("mlp", (0.3,)), Entry(None, (0.6,)))
    assert vision.parameters["density"] == (Entry(None, (0.6,)),)
    assert not recipe.parameters and str(recipe.base) == "base"
    assert recipe.of_module("text_decoder").whole_models and not recipe.of_module("vision_tower").whole_models


def test_written_and_read_back() -> None:
    recipe = reading(VISION).recipe
    again = read_recipe(parse_document(to_yaml(recipe_data(recipe)), "r.yml"), SCHEMAS)
    assert (again.recipe, again.notices) == (recipe, ())


def test_each_module_is_checked_with_its_own_lines() -> None:
    assert refusal(VISION.replace(", parameters: {weight: 1}", "")).startswith(
        "r.yml:13 slices[0].sources[1]: ties needs"
    )
    assert refusal(VISION.replace("0.3}}", "half}}")).startswith("r.yml:7 models[1].parameters.weight")
    assert "is no module" in refusal(VISION.split("  text_decoder", maxsplit=1)[0] + "  text_decoder: 3\n")
    assert "are no modules" in refusal("merge_method: ties\nmodules: [a]\n")


def test_a_default_module_alone_is_a_plain_recipe() -> None:
    text = "merge_method: linear\nmodules: {default: {models: [{model: a}, {model: b}]}}\nparameters: {weight: 1}\n"
    assert reading(text).recipe.modules == ()


@pytest.mark.parametrize(
    ("tensor", "role"),
    [
        ("model.layers.0.mlp.up_proj.weight", "decoder"),
        ("lm_head.weight", "decoder"),
        ("language_model.model.embed_tokens.weight", "decoder"),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", "tower"),
        ("model.visual.blocks.0.norm1.weight", "tower"),
        ("visual.merger.ln_q.weight", "projector"),
        ("model.multi_modal_projector.linear_1.weight", "projector"),
        ("encoder.block.0.layer.0.layer_norm.weight", "encoder"),
        ("model.encoder.layers.0.fc1.weight", "encoder"),
        ("decoder.block.0.layer.1.EncDecAttention.q.weight", "decoder"),
        ("shared.weight", "shared"),
    ],
)
def test_roles(tensor: str, role: str) -> None:
    assert role_of(tensor) == role


def shape(*names: str) -> Shape:
    return Shape({name: TensorInfo(name, (1,), "float32", "", None, name) for name in names}, {})


def test_members_by_role_by_prefix_and_the_rest() -> None:
    model = shape("model.visual.a", "model.visual.merger.b", "model.language_model.c", "lm_head.weight")

    def names(*modules: str) -> dict[str, list[str]]:
        return {module: list(found.tensors) for module, found in members(model, modules).items()}

    assert names("vision_tower") == {
        "vision_tower": ["model.visual.a"],
        "": ["model.visual.merger.b", "model.language_model.c", "lm_head.weight"],
    }
    assert names("visual", "default")["visual"] == ["model.visual.a", "model.visual.merger.b"]
    assert names("visual", "default")[""] == []
    assert names("model.language_model")["model.language_model"] == ["model.language_model.c"]
    with pytest.raises(
        InputError, match=r"no tensor is of module 'encoder'; known: text_decoder, decoder, vision_tower"
    ):
        names("encoder")
    with pytest.raises(InputError, match="is of both 'visual' and 'multi_modal_projector'"):
        names("visual", "multi_modal_projector")
