"""Any architecture: what transformers saves is merged whole, loads back whole, computes what a merge by hand does."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.errors import InputError
from mergeopt.merge.folder import merge_to_folder
from mergeopt.merge.live import skeleton
from tests.conftest import Weights, read_weights
from tests.merge.conftest import prepared
from tests.merge.families import COMMON, DECODERS, FAMILIES, FURTHER, Family, inputs, save

LINEAR = """
merge_method: linear
models:
- {model: m1, parameters: {weight: 0.3}}
- {model: m2, parameters: {weight: 0.9}}
"""
TIES = """
merge_method: ties
base_model: m0
models:
- {model: m1, parameters: {weight: 0.7, density: 0.6}}
- {model: m2, parameters: {weight: 0.4, density: 0.3}}
"""


FURTHER_STACKS = ["cohere2", "smollm3", "gpt-oss", "qwen2-moe", "qwen3-next", "llama4", "nemotron-h", "recurrent-gemma"]


def with_slow(names: Iterable[str], further: Iterable[str]) -> list[Any]:
    return [*names, *(pytest.param(name, marks=pytest.mark.slow) for name in further)]


def linear_by_hand(models: list[Weights]) -> Weights:
    _, a, b = models
    mean = {name: ((0.3 * a[name].double() + 0.9 * b[name].double()) / 1.2).float() for name in a}
    return {name: value if a[name].is_floating_point() else a[name] for name, value in mean.items()}


def ties_by_hand(models: list[Weights]) -> Weights:
    base, *others = models
    merged = {}
    for name, start in base.items():
        if not start.is_floating_point():
            merged[name] = start
            continue
        deltas = []
        for other, weight, density in zip(others, (0.7, 0.4), (0.6, 0.3), strict=True):
            delta = (other[name] - start).flatten()
            kept = delta.abs().topk(max(1, int(density * delta.numel()))).indices
            trimmed = torch.zeros_like(delta)
            trimmed[kept] = delta[kept]
            deltas.append((weight, trimmed))
        total = sum(weight * delta for weight, delta in deltas)
        sign = torch.where(total >= 0, 1.0, -1.0)
        agrees = [(delta.sign() == sign).float() for _, delta in deltas]
        mass = sum(w * agree for (w, _), agree in zip(deltas, agrees, strict=True))
        mix = sum(w * delta * agree for (w, delta), agree in zip(deltas, agrees, strict=True))
        merged[name] = start + (mix / torch.where(mass == 0, 1.0, mass)).view(start.shape)
    return merged


def loaded(family: Family, folder: Path) -> Any:
    """The model of a folder, which must fill it exactly."""
    model, info = getattr(transformers, family.model).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def outputs(family: Family, folder: Path) -> list[Tensor]:
    with torch.no_grad():
        found = loaded(family, folder)(**inputs(family), return_dict=True)
    tensors = [found[key] for key in found if isinstance(found[key], Tensor)]
    assert tensors and all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    return tensors


def by_hand(weights: Weights, like: Path, folder: Path) -> Path:
    shutil.copytree(like, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("name", with_slow([f.name for f in COMMON], [f.name for f in FURTHER]))
def test_a_merge_is_the_merge_by_hand(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    family = FAMILIES[name]
    models = [load_file(folder / "model.safetensors") for folder in save(family, tmp_path)]
    for recipe, reference in ((LINEAR, linear_by_hand(models)), (TIES, ties_by_hand(models))):
        of = prepared(recipe)
        merge_to_folder(of, tmp_path / "out")
        assert of.plan.left_out == () and of.notices == ()
        merged = read_weights(tmp_path / "out")
        assert merged.keys() == models[0].keys()
        for tensor, value in reference.items():
            torch.testing.assert_close(merged[tensor], value, rtol=1e-5, atol=1e-6, msg=f"{recipe}: {tensor}")
        expected = outputs(family, by_hand(reference, tmp_path / "m0", tmp_path / "by_hand"))
        for mine, theirs in zip(outputs(family, tmp_path / "out"), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        shutil.rmtree(tmp_path / "out")
        shutil.rmtree(tmp_path / "by_hand")


STACK = """
merge_method: passthrough
slices:
- sources: [{model: m0, layer_range: [0, 2]}]
- sources: [{model: m1, layer_range: [%d, 4]}]
"""
STACKED = [*(f.name for f in DECODERS), "llava", "qwen2-vl", "gemma3-multimodal", "bart", "modernbert", "deberta-v2"]


def layers_of(model: Any) -> torch.nn.ModuleList:
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len)


def operated(family: Family, first: Path, second: Path, start: int) -> Any:
    """The stack made in memory: the second model, with the first one's layers and embeddings put in its place."""
    model, other = loaded(family, second), loaded(family, first)
    config = model.config.get_text_config()
    kinds = vars(config).get("layer_types")
    stacked = [*layers_of(other)[:2], *layers_of(model)[start:]]
    layers_of(model)._modules = {str(i): layer for i, layer in enumerate(stacked)}
    config.num_hidden_layers = len(stacked)
    if kinds is not None:
        config.layer_types = [*kinds[:2], *kinds[start:]]
    before = re.compile(r"embed(?!_out)|wte|wpe|visi|visual|projector|merger|\.encoder")
    inside = {tensor.data_ptr() for layer in stacked for tensor in layer.state_dict().values()}
    theirs = other.state_dict()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in inside and before.search(name):
            tensor.copy_(theirs[name])
    return model


@pytest.mark.parametrize("name", with_slow(STACKED, FURTHER_STACKS))
def test_a_stack_computes_what_the_same_layers_do_in_memory(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    family = FAMILIES[name].deep(4)
    first, second = save(family, tmp_path, ("m0", "m1"))
    start = 0 if name == "jamba" else 1
    of = prepared(STACK % start)
    merge_to_folder(of, tmp_path / "out")
    options = {**inputs(family), "return_dict": True, "use_cache": False}
    for key in ("use_cache",) if family.model.endswith("MaskedLM") else ():
        del options[key]
    with torch.no_grad():
        mine, theirs = loaded(family, tmp_path / "out")(**options), operated(family, first, second, start)(**options)
    torch.testing.assert_close(mine.logits, theirs.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["t5", "bart", "bert", "roberta-classifier", "llama-classifier", "vit", "llava"])
def test_a_candidate_in_memory_is_a_causal_language_model(name: str, tmp_path: Path):
    family = FAMILIES[name]
    (folder,) = save(family, tmp_path, ("base",))
    words = (
        rf"config\.json: this is {family.model}, and candidates are scored as causal language models; `mergeopt merge`"
    )
    with pytest.raises(InputError, match=words):
        skeleton(folder, Checkpoint.open(folder).config, torch.device("cpu"), torch.float32)
