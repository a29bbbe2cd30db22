"""Adapters written by hand: what each key of their config means, and what is refused. Against peft: tests/golden."""

import json
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from mergeopt.checkpoint.adapter import Adapted, Factors, with_adapter
from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.lora import LoraConfig
from mergeopt.errors import InputError
from tests.conftest import Weights, llama_weights, read_weights, write_adapter, write_model

QUERY, UP = "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj"
BOTH = {QUERY: (16, 16), UP: (24, 16)}


def view_of(models: Path, **config: Any) -> tuple[Adapted, Weights]:
    """`base` with a fresh adapter on it, and what that adds, unscaled."""
    folder = models / f"lora{len(list(models.iterdir()))}"
    added = write_adapter(folder, BOTH, **config)
    return with_adapter(Checkpoint.open(models / "base"), folder, "base+lora"), added


def read(view: Checkpoint) -> Weights:
    with view.reader() as reader:
        return {name: reader.tensor(name) for name in view.tensors}


def saved(models: Path, tensors: dict[str, Tensor], **config: Any) -> Adapted:
    """`base` with an adapter that holds exactly these tensors."""
    folder = models / "own"
    write_adapter(folder, BOTH, **config)
    save_file(tensors, folder / "adapter_model.safetensors")
    return with_adapter(Checkpoint.open(models / "base"), folder, "base+own")


@pytest.mark.parametrize(
    ("config", "query", "up"),
    [
        ({}, 1, 1),
        ({"lora_alpha": 5}, 2.5, 2.5),
        ({"lora_alpha": 5, "use_rslora": True}, 5 / 2**0.5, 5 / 2**0.5),
        ({"alpha_pattern": {"q_proj": 8}}, 4, 1),
        ({"alpha_pattern": {r"model\.layers\.\d+\.mlp.*": 8}}, 1, 4),
        ({"r": 9, "lora_alpha": 4, "rank_pattern": {"q_proj": 2, "layers.0.mlp.up_proj": 2}}, 2, 2),
        ({"target_modules": ["q_proj"]}, 1, 0),
        ({"target_modules": "all-linear"}, 1, 1),
        ({"target_modules": r".*layers\.1\..*_proj"}, 1, 0),
        ({"exclude_modules": ["up_proj"]}, 1, 0),
        ({"layers_to_transform": 0}, 0, 1),
        ({"layers_to_transform": [1], "layers_pattern": "layers"}, 1, 0),
    ],
)
def test_scale_and_choice_of_modules(models: Path, config: dict[str, Any], query: float, up: float) -> None:
    view, added = view_of(models, **config)
    found, base = read(view), read_weights(models / "base")
    for module, scale in ((QUERY, query), (UP, up)):
        name = f"{module}.weight"
        torch.testing.assert_close(found[name], base[name] + scale * added[name])
        left = any(module in notice and "left out" in notice for notice in view.notices)
        assert (name in view.deltas) is (scale != 0) is not left
    untouched = base.keys() - view.deltas.keys()
    assert all(torch.equal(found[name], base[name]) for name in untouched)


def test_any_chunk_has_the_same_bits() -> None:
    random = torch.Generator().manual_seed(0)
    factors = Factors(torch.randn(77, 3, generator=random), torch.randn(3, 1025, generator=random))
    whole = torch.zeros(77 * 1025)
    factors.add_to(whole, 0)
    torch.testing.assert_close(whole, (factors.left @ factors.right).view(-1))
    for size in (1, 1000, 1025, 40_000):
        start = 0
        while start < whole.numel():
            part = torch.zeros(min(size, whole.numel() - start))
            factors.add_to(part, start)
            assert torch.equal(part, whole[start : start + part.numel()])
            start += part.numel() * (1 if size > 1 else 5501)


def test_read_in_float32_and_planned_in_the_models_dtype(models: Path) -> None:
    write_model(models / "low", {n: t.bfloat16() for n, t in llama_weights().items()})
    added = write_adapter(models / "lora", BOTH)
    view = with_adapter(Checkpoint.open(models / "low"), models / "lora", "low+lora")
    name = f"{QUERY}.weight"
    assert view.tensors[name].dtype == "float32" and view.shape.tensors[name].dtype == "bfloat16"
    assert view.tensors["lm_head.weight"].dtype == "bfloat16"
    torch.testing.assert_close(read(view)[name], read_weights(models / "low")[name].float() + added[name])


def test_a_module_may_have_one_word_more_or_less_in_memory(models: Path) -> None:
    inside = {n.removeprefix("model."): t for n, t in llama_weights().items() if n != "lm_head.weight"}
    write_model(models / "inner", inside, num_hidden_layers=2)
    write_model(models / "nested", {f"language_model.{n}": t for n, t in llama_weights().items()}, num_hidden_layers=2)
    write_adapter(models / "lora", BOTH)
    write_adapter(models / "vision", {f"model.language_model.{QUERY.removeprefix('model.')}": (16, 16)})
    for base, lora, name in (
        ("inner", "lora", QUERY.removeprefix("model.")),
        ("nested", "lora", f"language_model.{QUERY}"),
        ("nested", "vision", f"language_model.{QUERY}"),
    ):
        view = with_adapter(Checkpoint.open(models / base), models / lora, "x")
        assert f"{name}.weight" in view.deltas


def test_modules_saved_whole_replace_the_models(models: Path) -> None:
    norm, bias = torch.randn(16).half(), torch.randn(1, 16)
    view = saved(
        models,
        {"base_model.model.model.norm.modules_to_save.weight": norm, "base_model.model.score.weight": bias},
    )
    found = read(view)
    assert torch.equal(found["model.norm.weight"], norm) and torch.equal(found["score.weight"], bias)
    assert view.shape.tensors["model.norm.weight"].dtype == "float32"


def test_an_adapter_may_bring_a_vocabulary(models: Path) -> None:
    rows = {f"base_model.model.{name}": torch.randn(35, 16) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    view = saved(models, rows)
    assert view.config["vocab_size"] == 35 and view.shape.tensors["lm_head.weight"].shape == (35, 16)
    assert view.folder == models / "base" and "no tokenizer.json" in view.notices[0]
    (models / "own/tokenizer.json").write_text("{}")
    again = with_adapter(Checkpoint.open(models / "base"), models / "own", "x")
    assert again.folder == models / "own" and again.notices == ()


def test_a_head_of_its_own_unties_it(models: Path) -> None:
    write_model(models / "tied", llama_weights(head=False), tie_word_embeddings=True)
    write_adapter(models / "lora", BOTH)
    save_file({"base_model.model.lm_head.weight": torch.randn(32, 16)}, models / "lora/adapter_model.safetensors")
    view = with_adapter(Checkpoint.open(models / "tied"), models / "lora", "x")
    assert view.config["tie_word_embeddings"] is False and "lm_head.weight" in view.tensors


def test_a_pickled_adapter(models: Path) -> None:
    view, _ = view_of(models)
    expected, folder = read(view), view.files[-1].parent
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    found = read(with_adapter(Checkpoint.open(models / "base"), folder, "x"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "an adapter of type 'IA3'"),
        ({"use_dora": True}, r"adapter_config.json: an adapter weight-decomposed \(DoRA\) .*merge_and_unload"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, r"on parameters instead of modules"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' changed the model's own weights"),
        ({"r": 3}, f"gives '{UP}' rank 3, its weights have rank 2"),
        ({"r": "2"}, "r is '2', not a positive whole number"),
        ({"lora_alpha": None}, "lora_alpha is None, not a number"),
        ({"rank_pattern": [2]}, "rank_pattern is no mapping"),
        ({"target_modules": 3}, "target_modules is neither names nor a pattern"),
        ({"target_modules": "(a"}, r"'\(a' is no pattern"),
        ({"target_modules": "(a+)+b"}, "repeats too much"),
        ({"alpha_pattern": {".*" * 9: 2}}, "repeats too much"),
        ({"target_modules": ["k_proj"]}, "changes nothing: it holds no weights for its target_modules"),
    ],
)
def test_configs_that_are_refused(models: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        view_of(models, **config)


def factor(module: str, half: str, *shape: int) -> dict[str, Tensor]:
    return {f"base_model.model.{module}.lora_{half}.weight": torch.ones(shape)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (factor(QUERY, "A", 2, 16), "has lora_A without its other half"),
        (factor(QUERY, "A", 2, 9) | factor(QUERY, "B", 16, 2), r"\[2, 9\] and \[16, 2\] do not fit .* \[16, 16\] of"),
        (factor(QUERY, "A", 2, 16) | factor(QUERY, "B", 16, 3), "do not fit"),
        (factor(QUERY, "A", 16) | factor(QUERY, "B", 16, 2), "do not fit"),
        (factor("model.layers.7.self_attn.q_proj", "A", 2, 16) | factor("model.layers.7.self_attn.q_proj", "B", 16, 2),
         r"changes 'model.layers.7.self_attn.q_proj', which '.*base' does not store; is it an adapter of 'base'\?"),
        ({"base_model.model.model.layers.0.gate.weight": torch.ones(2)}, "changes 'model.layers.0.gate.weight'"),
        ({f"base_model.model.{QUERY}.lora_magnitude_vector": torch.ones(16)}, "more than a low-rank sum"),
        (factor(QUERY, "A") | factor(QUERY, "B"), "do not fit"),
        ({"base_model.model.model.norm.weight": torch.ones(17)}, r"is \[17\], in '.*base' \[16\]"),
        ({"base_model.model.model.norm.weight": torch.tensor(1.0)}, r"is \[\], in '.*base' \[16\]"),
        ({f"base_model.model.{QUERY}.weight": torch.ones(17, 16)}, r"is \[17, 16\], in"),
        ({"base_model.model.model.norm.weight": torch.ones(16, 2)}, r"is \[16, 2\], in '.*base' \[16\]"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(models: Path, tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        saved(models, tensors)


def test_missing_files_and_integers(models: Path) -> None:
    base = Checkpoint.open(models / "base")
    with pytest.raises(InputError, match=r"a: not an adapter: no adapter_config.json"):
        with_adapter(base, models / "a", "x")
    write_adapter(models / "lora", BOTH)
    (models / "lora/adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"lora: neither adapter_model.safetensors nor adapter_model.bin"):
        with_adapter(base, models / "lora", "x")
    write_model(models / "q", {n: t.to(torch.int8) for n, t in llama_weights().items()})
    write_adapter(models / "lora2", BOTH)
    with pytest.raises(InputError, match=r"int8 weights .*name the unquantised model"):
        with_adapter(Checkpoint.open(models / "q"), models / "lora2", "x")


@pytest.mark.parametrize("stated", ["base", "org/Base", "/elsewhere/base/", None])
def test_a_copy_of_the_stated_model_is_that_model(models: Path, stated: str | None) -> None:
    assert view_of(models, base_model_name_or_path=stated)[0].notices == ()
    notice = view_of(models, base_model_name_or_path="org/other")[0].notices
    assert notice == (f"base+lora: the adapter was trained on 'org/other', not on {str(models / 'base')!r}",)


def test_a_broken_config_is_one_line(models: Path) -> None:
    write_adapter(models / "lora", BOTH)
    (models / "lora/adapter_config.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match=r"adapter_config.json: holds a JSON list"):
        with_adapter(Checkpoint.open(models / "base"), models / "lora", "x")


KEYS = [field.name for field in fields(LoraConfig)] + ["lora_alpha", "peft_type", "layers_to_transform", "use_rslora"]
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(r".*+?()[]{}\\|aq_proj", max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.dictionaries(st.sampled_from(KEYS), ANY))
def test_any_config_is_read_or_refused(tmp_path: Path, data: dict[str, Any]) -> None:
    usual = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(usual | data))
    with suppress(InputError):
        config = LoraConfig.read(tmp_path)
        if config.selects(QUERY):
            config.scale(QUERY, 2)
