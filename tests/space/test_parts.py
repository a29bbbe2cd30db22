import pytest

from mergeopt.recipe.shape import TensorInfo
from mergeopt.space.parts import module_of, part_of


@pytest.mark.parametrize(
    ("part", "block", "module"),
    [
        ("self_attn.q_proj.weight", "attention", "q_proj"),
        ("self_attn.q_norm.weight", "attention", "q_norm"),
        ("post_attention_layernorm.weight", "norm", "post_attention_layernorm"),
        ("self_attn_layer_norm.bias", "norm", "self_attn_layer_norm"),
        ("mlp.experts.3.up_proj.weight", "mlp", "up_proj"),
        ("block_sparse_moe.gate.weight", "mlp", "gate"),
        ("ln_1.bias", "norm", "ln_1"),
        ("attn.c_attn.weight", "attention", "c_attn"),
        ("layer.1.DenseReluDense.wi.weight", "mlp", "wi"),
        ("mixer.A_log", "rest", "A_log"),
    ],
)
def test_blocks_and_modules_are_read_off_the_name(part: str, block: str, module: str) -> None:
    info = TensorInfo(f"layers.0.{part}", (2, 2), "float32", "layers", 0, part)
    assert part_of("blocks", info.name, info) == block
    assert module_of(part) == part_of("modules", info.name, info) == module


def test_filters_in_the_order_given_and_a_rest() -> None:
    info = TensorInfo("layers.0.mlp.up_proj.weight", (2, 2), "float32", "layers", 0, "mlp.up_proj.weight")
    assert part_of(("up", "mlp"), info.name, info) == "up"
    assert part_of(("attn",), info.name, info) == "rest"
    assert part_of(None, info.name, info) == ""
