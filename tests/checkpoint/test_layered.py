"""What a config says of single layers, for layers picked anew."""

import re
from typing import Any

import pytest

from mergeopt.checkpoint.layered import follow_layers
from mergeopt.errors import InputError

FULL, SLIDING = "full_attention", "sliding_attention"


def followed(picked: list[int], before: int = 4, **config: Any) -> dict[str, Any]:
    return follow_layers(config, picked, before)


@pytest.mark.parametrize(
    ("entry", "value", "picked", "result"),
    [
        ("layer_types", [FULL, SLIDING, FULL, SLIDING], [1, 1, 2], [SLIDING, SLIDING, FULL]),
        ("layers_block_type", ["mamba", "mamba", "hybrid", "mamba"], [2, 0], ["hybrid", "mamba"]),
        ("intermediate_size", [8, 9, 10, 11], [3, 0], [11, 8]),
        ("no_rope_layers", [1, 1, 1, 0], [0, 3, 3], [1, 0, 0]),
        ("hybrid_override_pattern", "M-*-", [2, 3, 2], "*-*"),
        ("attention_types", [[["global", "local"], 2]], [1, 1, 2], [[["local", "local", "global"], 1]]),
        ("block_types", ["recurrent", "attention"], [1, 2, 3], ["attention", "recurrent", "attention"]),
        ("mtp_layers_block_type", ["a", "b", "c", "d"], [1], ["a", "b", "c", "d"]),
        ("mlp_only_layers", [0, 2], [0, 1, 2, 2], [0, 2, 3]),
        ("mlp_only_layers", [0, 1, 2, 3], [0, 1], [0, 1]),
        ("mlp_only_layers", [], [0, 0], []),
        ("cross_attention_layers", [3], [0, 1], []),
        ("hybrid_layer_ids", [1, 3], [1, 2, 3], [0, 2]),
        ("eos_token_id", [1, 2, 3, 4], [0, 1], [1, 2, 3, 4]),
        ("suppress_tokens", [1, 2, 3, 4], [0, 1], [1, 2, 3, 4]),
        ("intermediate_size", [8, 9], [0, 1], [8, 9]),
        ("first_k_dense_replace", 1, [0, 1, 1, 2], 1),
        ("first_k_dense_replace", 2, [0, 1, 0, 1, 2], 4),
        ("first_k_dense_replace", 2, [2, 3], 0),
        ("first_k_dense_replace", 9, [0, 1, 0], 3),
        ("attn_layer_period", 2, [0, 1, 2, 3, 2, 3], 2),
        ("full_attention_interval", 4, [0, 1, 2, 3], 4),
    ],
)
def test_followed(entry: str, value: Any, picked: list[int], result: Any) -> None:
    assert followed(picked, **{entry: value})[entry] == result


@pytest.mark.parametrize(
    ("picked", "config", "words"),
    [
        ([0, 2, 1], {"first_k_dense_replace": 2}, "sets the first 2 layers apart (first_k_dense_replace), and the "
         "merge takes layer 1 after layer 2"),
        ([1, 2], {"attn_layer_period": 2, "attn_layer_offset": 1}, "every 2 (attn_layer_period), and the merge takes "
         "layer 1 as layer 0, where another kind stands; move layers by multiples of 2"),
        ([0, 1, 1], {"full_attention_interval": 4}, "takes layer 1 as layer 2"),
        ([0, 3, 2], {"max_window_layers": 3, "use_sliding_window": True}, "layer 2 after layer 3"),
        ([0, 4], {"layer_types": [FULL] * 4}, "has layer_types for 4 layers, and the merge takes layer 4; name"),
        ([0, 2], {"num_mem_blocks": 1}, "no stack can be made of this model's layers: its layers share blocks"),
        ([0, 4], {"mlp_only_layers": [0]}, "has mlp_only_layers for 4 layers"),
    ],
)  # fmt: skip
def test_what_no_config_can_say(picked: list[int], config: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        followed(picked, **config)


def test_an_offset_counts_kinds_and_not_numbers() -> None:
    config = {"attn_layer_period": 4, "attn_layer_offset": 3}
    assert followed([0, 0, 1, 3], **config) == config  # three of one kind, and the other


def test_a_list_says_more_than_a_border_or_a_period() -> None:
    config = {"use_sliding_window": True, "max_window_layers": 2, "layer_types": [FULL, FULL, SLIDING, SLIDING]}
    made = followed([0, 2, 1], **config)
    assert made["layer_types"] == [FULL, SLIDING, FULL]
    made = followed([1, 2], layer_types=[SLIDING, SLIDING, FULL, SLIDING], sliding_window_pattern=3)
    assert made == {"layer_types": [SLIDING, FULL], "sliding_window_pattern": 3}


def test_a_window_that_is_not_used_stops_nothing() -> None:
    assert followed([0, 3, 2], max_window_layers=3)["max_window_layers"] == 3


def test_steps_become_a_list() -> None:
    made = followed([1, 0, 3, 2], decoder_sparse_step=2, mlp_only_layers=[3])
    assert made == {"decoder_sparse_step": 1, "mlp_only_layers": [1, 2, 3]}


def test_the_whole_stack_in_order_changes_nothing() -> None:
    config = {"model_type": "gemma2", "num_hidden_layers": 4, "decoder_sparse_step": 2}
    assert follow_layers(config, [0, 1, 2, 3], 4) == config


def test_lists_that_transformers_derives_are_written_out() -> None:
    config = {"model_type": "gemma2", "num_hidden_layers": 4}  # as published: sliding in every layer of even number
    assert follow_layers(config, [1, 2, 3], 4)["layer_types"] == [FULL, SLIDING, FULL]
    assert follow_layers({"model_type": "nobody's"}, [1, 2], 4) == {"model_type": "nobody's"}
