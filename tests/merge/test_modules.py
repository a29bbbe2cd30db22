"""Each module is merged by its own part of the recipe; what is of no module comes from the donor."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

from mergeopt.errors import InputError
from mergeopt.merge.folder import merge_to_folder
from mergeopt.recipe.modules import role_of
from tests.conftest import Weights, read_weights
from tests.merge.conftest import prepared
from tests.merge.families import FAMILIES, save

RECIPE = """\
merge_method: linear
modules:
  {one}:
    models: [{{model: m1}}, {{model: m2}}]
    parameters: {{weight: 0.5}}
  {two}:
    models: [{{model: m1, parameters: {{weight: 0.25}}}}, {{model: m2, parameters: {{weight: 0.75}}}}]
"""
WEIGHTS = {0: 0.5, 1: 0.25, None: 1.0}


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def merge(recipe: str) -> tuple[Weights, tuple[str, ...]]:
    of = prepared(recipe)
    merge_to_folder(of, Path("out"))
    return read_weights(Path("out")), of.notices


@pytest.mark.parametrize(
    ("family", "one", "two"),
    [
        ("llava", "text_decoder", "vision_tower"),
        ("qwen2-vl", "text_decoder", "vision_tower"),
        ("t5", "decoder", "encoder"),
        ("whisper", "decoder", "encoder"),
    ],
)
def test_modules_by_mergekits_names(inside: Path, family: str, one: str, two: str) -> None:
    model = save(FAMILIES[family], inside)
    roles = {"text_decoder": "decoder", "vision_tower": "tower"}
    first, second = roles.get(one, one), roles.get(two, two)
    got, notices = merge(RECIPE.format(one=one, two=two))
    m1, m2 = read_weights(inside / "m1"), read_weights(inside / "m2")
    assert got.keys() == m1.keys()
    unnamed = []
    for name, tensor in got.items():
        role = role_of(name)
        share = 0.5 if role == first else 0.25 if role == second else 1.0
        unnamed += [name] if role not in (first, second) else []
        torch.testing.assert_close(tensor, share * m1[name] + (1 - share) * m2[name], msg=name)
    assert any("of a module that the recipe does not name" in text for text in notices) == bool(unnamed)
    _, info = getattr(transformers, FAMILIES[family].model).from_pretrained("out", output_loading_info=True)
    assert not any(info.values()), (info, model)


def test_slices_of_one_module_and_the_rest_by_default(inside: Path) -> None:
    save(FAMILIES["llava"], inside)
    layers = len(
        {
            n.split(".layers.")[1].split(".")[0]
            for n in read_weights(inside / "m1")
            if "language_model" in n and ".layers." in n
        }
    )
    text = f"""\
    merge_method: passthrough
    dtype: float32
    modules:
      text_decoder:
        slices:
          - sources: [{{model: m1, layer_range: [0, {layers}]}}]
          - sources: [{{model: m2, layer_range: [{layers - 1}, {layers}]}}]
      default:
        models: [{{model: m2}}]
    """
    got, _ = merge(text)
    m1, m2 = read_weights(inside / "m1"), read_weights(inside / "m2")
    for name, tensor in got.items():
        if role_of(name) != "decoder":
            assert torch.equal(tensor, m2[name]), name
    top = [name for name in got if f".layers.{layers}." in name and role_of(name) == "decoder"]
    assert top
    for name in top:
        assert torch.equal(got[name], m2[name.replace(f".layers.{layers}.", f".layers.{layers - 1}.")])
    transformers.AutoModelForImageTextToText.from_pretrained("out")
    assert m1.keys() < got.keys()


def test_a_module_that_a_model_lacks_and_layers_that_no_config_says(inside: Path) -> None:
    save(FAMILIES["t5"], inside)
    with pytest.raises(
        InputError, match="model 'm1': no tensor is of module 'vision_tower'; known: text_decoder, decoder, encoder"
    ):
        prepared(RECIPE.format(one="decoder", two="vision_tower"))
    save(FAMILIES["llava"], inside / "x")
    tower = """\
    merge_method: passthrough
    modules:
      vision_tower:
        slices: [{sources: [{model: x/m1, layer_range: [0, 1]}]}]
    """
    with pytest.raises(InputError, match="would get other layers"):
        prepared(tower)
