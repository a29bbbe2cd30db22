from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.header import StoredTensor
from mergeopt.checkpoint.layout import shape_of
from mergeopt.recipe.shape import Shape


def shape(names: Iterable[str], config: Mapping[str, Any] | None = None) -> Shape:
    return shape_of({n: StoredTensor(n, "float32", (1,), Path("f"), 0, 4) for n in names}, config or {})


def stack(prefix: str, count: int, *parts: str) -> list[str]:
    return [f"{prefix}.{i}.{part}" for i in range(count) for part in parts or ("attn.weight", "norm.weight")]


def test_a_tensor_of_a_layer_and_an_outer_one() -> None:
    result = shape(["lm_head.weight", *stack("model.layers", 12, "mlp.experts.5.w1.weight", "norm.weight")])

    expert = result.tensors["model.layers.10.mlp.experts.5.w1.weight"]
    assert (expert.stack, expert.layer, expert.part) == ("model.layers", 10, "mlp.experts.5.w1.weight")
    assert expert.name_at(3) == "model.layers.3.mlp.experts.5.w1.weight"
    assert result.stacks == {"model.layers": 12}
    assert [t.name for t in result.outer] == ["lm_head.weight"]


@pytest.mark.parametrize(
    "names",
    [
        ["classifier.0.weight", "classifier.0.bias", "classifier.1.weight"],  # bare parameters of a Sequential
        ["merger.mlp.0.weight", "merger.mlp.2.weight"],
        ["head.1.dense.weight", "head.3.dense.weight"],  # gaps
        ["blocks.0.a.weight", "blocks.1.b.weight"],  # nothing shared
        ["prompts.0", "prompts.1"],
        ["0.dense.weight", "1.dense.weight"],  # no name before the number
        ["a.00.x.weight", "a.01.x.weight"],
        ["a.\u00b2.x.weight"],  # a digit to str.isdigit, not to int
    ],
)
def test_numbers_that_are_no_layers(names: list[str]) -> None:
    result = shape(names)
    assert result.stacks == {}
    assert len(result.outer) == len(names)


def test_a_number_before_the_stack_is_passed_over() -> None:
    result = shape([*stack("towers.1.layers", 2), "towers.1.norm.weight"])
    assert result.stacks == {"towers.1.layers": 2}


def test_a_single_layer_is_a_stack_and_its_experts_are_not() -> None:
    result = shape(stack("model.layers", 1, *(f"experts.{e}.w.weight" for e in range(4))))
    assert result.stacks == {"model.layers": 1}


def test_the_config_settles_layers_that_share_nothing() -> None:
    names = ["blocks.0.mamba.weight", "blocks.1.attn.weight"]
    assert shape(names, {"num_hidden_layers": 2}).stacks == {"blocks": 2}
    assert shape(names, {"text_config": {"n_layer": 2}}).stacks == {"blocks": 2}
    assert shape(names, {"num_hidden_layers": 3}).stacks == {}


def test_prediction_layers_after_the_last_are_outer() -> None:
    config = {"num_hidden_layers": 3, "num_nextn_predict_layers": 1}
    result = shape(stack("model.layers", 4), config)
    assert result.stacks == {"model.layers": 3}
    assert {t.name for t in result.outer} == {"model.layers.3.attn.weight", "model.layers.3.norm.weight"}
    assert shape(stack("model.layers", 3), config).stacks == {"model.layers": 3}  # saved without them


SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 40,
    "pad_token_id": 0,
}
MOE = {"num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 8}
SPEECH = {
    "d_model": 16,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}
FAMILIES: list[tuple[str, dict[str, Any], dict[str, int]]] = [  # names without the prefix that some heads add
    ("llama", SIZES, {"layers": 3}),
    ("mixtral", SIZES | MOE, {"layers": 3}),
    ("qwen3_moe", SIZES | MOE, {"layers": 3}),
    ("gemma3_text", SIZES, {"layers": 3}),
    ("phi3", SIZES, {"layers": 3}),
    ("gpt2", {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 40}, {"h": 3}),
    ("gpt_neox", SIZES, {"layers": 3}),
    ("bloom", {"hidden_size": 16, "n_layer": 3, "n_head": 2, "vocab_size": 40}, {"h": 3}),
    ("opt", SIZES | {"ffn_dim": 32, "word_embed_proj_dim": 16}, {"decoder.layers": 3}),
    ("mamba", SIZES | {"state_size": 4}, {"layers": 3}),
    ("recurrent_gemma", SIZES | {"lru_width": 16}, {"layers": 3}),
    ("bert", SIZES, {"encoder.layer": 3}),
    ("modernbert", SIZES, {"layers": 3}),
    ("vit", SIZES, {"encoder.layer": 3}),
    (
        "clip",
        {"text_config": SIZES, "vision_config": SIZES},
        {"text_model.encoder.layers": 3, "vision_model.encoder.layers": 3},
    ),
    ("whisper", SPEECH | {"vocab_size": 40, "pad_token_id": 0}, {"encoder.layers": 3, "decoder.layers": 2}),
    (
        "t5",
        {"d_model": 16, "d_ff": 32, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2, "vocab_size": 40},
        {"encoder.block": 3, "decoder.block": 2},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "sizes", "stacks"), FAMILIES, ids=[family for family, _, _ in FAMILIES])
def test_families_as_transformers_saves_them(
    tmp_path: Path, family: str, sizes: dict[str, Any], stacks: dict[str, int]
) -> None:
    from transformers import CONFIG_MAPPING, AutoModel

    AutoModel.from_config(CONFIG_MAPPING[family](**sizes)).save_pretrained(tmp_path)

    assert Checkpoint.open(tmp_path).shape.stacks == stacks


def test_towers_of_a_multimodal_model_and_its_projector() -> None:
    names = [
        *stack("visual.blocks", 4),
        *stack("model.layers", 3, "self_attn.q_proj.weight", "mlp.experts.0.w.weight"),
        "visual.merger.mlp.0.weight",
        "visual.merger.mlp.2.weight",
        "model.embed_tokens.weight",
    ]
    result = shape(names)
    assert result.stacks == {"visual.blocks": 4, "model.layers": 3}
    assert len(result.outer) == 3
