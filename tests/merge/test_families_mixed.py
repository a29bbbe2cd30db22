"""Models that are not quite alike: tied and untied heads, classifiers, towers, integers, quantised weights."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from mergeopt.errors import InputError
from mergeopt.merge.folder import merge_to_folder
from tests.conftest import Weights, read_weights
from tests.merge.conftest import prepared
from tests.merge.families import FAMILIES, SIZES, Family, save

LINEAR = "merge_method: linear\nmodels: [{model: m1}, {model: m2}]\nparameters: {weight: 0.5}\n"
TASK = "merge_method: task_arithmetic\nbase_model: m0\nmodels: [{model: m1}, {model: m2}]\nparameters: {weight: 0.5}\n"


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def made(recipe: str, model: str) -> tuple[Weights, Any, tuple[str, ...]]:
    """The merge's weights, the model that transformers makes of them, and the notices."""
    of = prepared(recipe)
    merge_to_folder(of, Path("out"))
    loaded, info = getattr(transformers, model).from_pretrained("out", output_loading_info=True)
    assert not any(info.values()), info
    return read_weights(Path("out")), loaded, of.notices


def rewrite(folder: Path, **changed: Tensor | None) -> Weights:
    """Changes tensors of a folder (dots as __); None takes one away."""
    weights = load_file(folder / "model.safetensors")
    for key, tensor in changed.items():
        weights.pop(key.replace("__", "."), None)
        if tensor is not None:
            weights[key.replace("__", ".")] = tensor
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return weights


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize("tied", ["m1", "m2"])
def test_tied_and_untied_heads(inside: Path, tied: str):
    save(FAMILIES["llama"], inside)
    shutil.rmtree(inside / tied)
    save(FAMILIES["llama-tied"], inside, (tied,))
    models = {name: load_file(inside / name / "model.safetensors") for name in ("m1", "m2")}
    assert HEAD not in models[tied]
    merged, loaded, notices = made(LINEAR, "LlamaForCausalLM")
    heads = [weights.get(HEAD, weights[EMBEDDING]) for weights in models.values()]
    torch.testing.assert_close(merged[HEAD], (heads[0] + heads[1]) / 2)
    assert not loaded.config.tie_word_embeddings
    assert torch.equal(loaded.lm_head.weight, merged[HEAD]) and torch.equal(
        loaded.model.embed_tokens.weight, merged[EMBEDDING]
    )
    untied = "the head is written: the output's config unties it from the embeddings of m1"
    assert notices == ((untied,) if tied == "m1" else ())


def test_encoder_decoders_with_the_embedding_stored_twice(inside: Path):
    save(FAMILIES["t5"], inside)
    shared = load_file(inside / "m1/model.safetensors")["shared.weight"]
    rewrite(inside / "m1", encoder__embed_tokens__weight=shared.clone())  # as old checkpoints do
    merged, loaded, notices = made(LINEAR, "T5ForConditionalGeneration")
    assert torch.equal(merged["encoder.embed_tokens.weight"], merged["shared.weight"])
    assert loaded.lm_head.weight is loaded.shared.weight and notices == ()


def test_reward_models_of_a_language_model(inside: Path):
    save(FAMILIES["llama"], inside, ("m0",))
    save(FAMILIES["llama-classifier"], inside, ("m1", "m2"))
    with pytest.raises(InputError, match=r"base_model 'm0' lacks tensor 'score.weight', which m1 and m2 have"):
        prepared(TASK)
    merged, _, notices = made(LINEAR, "LlamaForSequenceClassification")
    models = [load_file(inside / name / "model.safetensors") for name in ("m1", "m2")]
    torch.testing.assert_close(merged["score.weight"], sum(m["score.weight"] for m in models) / 2)
    assert notices == ()
    shutil.rmtree(inside / "m2")
    save(FAMILIES["llama"], inside, ("x", "m2"))
    of = prepared(TASK)
    merge_to_folder(of, inside / "both")
    both = read_weights(inside / "both")
    assert torch.equal(both["score.weight"], models[0]["score.weight"]) and HEAD in both
    assert sorted(notice.partition(" (")[0] for notice in of.notices) == [
        "lacking in 'm0': 'score.weight'",
        "lacking in 'm1': 'lm_head.weight'",
        "lacking in 'm2': 'score.weight'",
    ]


def test_a_language_model_goes_into_a_vision_language_model(inside: Path):
    save(FAMILIES["qwen2-vl"], inside, ("m0",))
    save(Family("qwen2", "Qwen2ForCausalLM", "Qwen2Config", "text", SIZES), inside, ("m1", "m2"))
    merged, _, notices = made(TASK, "Qwen2VLForConditionalGeneration")
    base, a, b = (load_file(inside / name / "model.safetensors") for name in ("m0", "m1", "m2"))
    for name, start in base.items():
        if name.startswith("visual."):
            assert torch.equal(merged[name], start)
        else:
            torch.testing.assert_close(merged[name], start + 0.5 * (a[name] - start) + 0.5 * (b[name] - start))
    count = sum(name.startswith("visual.") for name in base) - 1
    assert sorted(notice.partition("visual")[0] for notice in notices) == ["lacking in 'm1': '", "lacking in 'm2': '"]
    assert all(notice.endswith(f"and {count} more (copied from m0)") for notice in notices)


def test_integers_are_copied_where_they_are_the_same(inside: Path):
    for folder in save(FAMILIES["bert"], inside):
        rewrite(
            folder,
            bert__embeddings__position_ids=torch.arange(32)[None],
            bert__norm__num_batches_tracked=torch.tensor(7),
        )
    merge_to_folder(prepared(LINEAR + "dtype: bfloat16\n"), inside / "out")
    merged = read_weights(inside / "out")
    assert torch.equal(merged["bert.embeddings.position_ids"], torch.arange(32)[None])
    assert merged["bert.norm.num_batches_tracked"] == 7
    rewrite(inside / "m2", bert__norm__num_batches_tracked=torch.tensor(8))
    with pytest.raises(InputError, match=r"'bert.norm.num_batches_tracked' holds int64 and differs between 'm1' and"):
        merge_to_folder(prepared(LINEAR), inside / "other")
    assert not (inside / "other").exists()


def test_quantised_models(inside: Path):
    for folder in save(FAMILIES["llama"], inside):
        codes = torch.arange(48, dtype=torch.int32).view(2, 24)
        scales = torch.full((1, 24), 0.1, dtype=torch.float16)
        place = "model__layers__0__mlp__up_proj__"
        rewrite(folder, **{f"{place}weight": None, f"{place}qweight": codes, f"{place}scales": scales})
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"model 'm1' is quantised \(gptq\): .*; take the model it was made from"):
        prepared(LINEAR)
    stack = "slices:\n- sources: [{model: m0, layer_range: [0, 1]}]\n- sources: [{model: m1, layer_range: [0, 2]}]\n"
    merge_to_folder(prepared("merge_method: passthrough\n" + stack), inside / "out")
    base, other = (load_file(inside / name / "model.safetensors") for name in ("m0", "m1"))
    merged = read_weights(inside / "out")
    for name, tensor in merged.items():
        layer = name.split(".")[2] if name.startswith("model.layers.") else None
        source = base if layer == "0" or "embed" in name else other
        original = source[name.replace(f"layers.{layer}.", f"layers.{max(0, int(layer) - 1)}.") if layer else name]
        assert tensor.dtype == original.dtype and torch.equal(tensor, original), name
    assert json.loads((inside / "out/config.json").read_text())["quantization_config"]["bits"] == 4
