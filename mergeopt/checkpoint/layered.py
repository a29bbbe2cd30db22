"""The part of a config.json that speaks of single layers, for a stack put together from a model's layers.

Configs describe layers in four ways: a list with one entry per layer (``layer_types``), a list of layer numbers
(``mlp_only_layers``), a border (``first_k_dense_replace``) and a period (``attn_layer_period``). A list follows any
choice of layers; a border or a period only describes some choices, and others are refused. What a config leaves to
transformers' defaults is made explicit first.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from mergeopt.checkpoint.jsonfile import with_special_floats
from mergeopt.errors import InputError

# Lists that are as long as the model is deep by chance.
_OTHER_LISTS = re.compile(
    r"_ids?$|_tokens$|^mtp_|^(architectures|time_step_limit|pos_att_type|out_indices|out_features)$"
)
_LAYER_NUMBERS = re.compile(r"(_layers|_layer_ids|_idxs|_indices|_indexes)$")

# Which list says the same as a border or a period, and counts before it.
_BORDERS = {
    "first_k_dense_replace": "mlp_layer_types",
    "num_dense_layers": "mlp_layer_types",
    "moe_layer_start_index": "mlp_layer_types",
    "max_window_layers": "layer_types",
}
_PERIODS = {
    "sliding_window_pattern": "layer_types",
    "full_attention_interval": "layer_types",
    "global_attn_every_n_layers": "layer_types",
    "no_rope_layer_interval": "no_rope_layers",
    "interleave_moe_layer_step": "moe_layers",
    "moe_layer_freq": "mlp_layer_types",
    "attn_layer_period": "layers_block_type",
    "expert_layer_period": "",
}

# Models whose layers are no parts that can be moved.
_WHOLE = {
    "num_mem_blocks": "its layers share blocks, and number what is their own by the order of use",
    "hidden_size_per_layer_input": "one matrix feeds every layer its own columns",
}


def follow_layers(config: Mapping[str, Any], picked: Sequence[int], before: int) -> dict[str, Any]:
    """The config of a model whose layer i is layer ``picked[i]`` of this config's.

    Args:
        config: The language model's.
        picked: May repeat layers and leave some out.
        before: The number of layers that `config` describes.

    Raises:
        InputError: the config has no words for this choice of layers.
    """
    if list(picked) == list(range(before)):
        return dict(config)
    for name, why in _WHOLE.items():
        if config.get(name):
            raise InputError(f"no stack can be made of this model's layers: {why} ({name})", remedy="merge it whole")
    result = dict(config)
    for name, value in _explicit(config, before).items():
        followed = _followed(name, value, picked, before)
        if followed is not None:
            result[name] = followed
    _sparse_steps(result, config, picked)
    for name, instead in _BORDERS.items():
        border = config.get(name)
        if type(border) is int and not _moot(name, result):
            result[name] = _border(name, border, picked, said=isinstance(result.get(instead), list))
    for name, instead in _PERIODS.items():
        period = config.get(name)
        if type(period) is int and period > 1 and not isinstance(result.get(instead), list):
            _check_period(name, period, config.get(name.replace("_period", "_offset")), picked)
    return result


def per_layer(config: Mapping[str, Any], before: int) -> list[str]:
    """The entries of a config that speak of each of its `before` layers."""
    return [name for name, value in config.items() if _one_each(name, value, before) is not None]


def _explicit(config: Mapping[str, Any], before: int) -> Mapping[str, Any]:
    """The config, and the lists that transformers derives where it has none (Gemma 2's ``layer_types``)."""
    kind = config.get("model_type")
    if not isinstance(kind, str):
        return config
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        return config
    try:
        fields = with_special_floats({k: v for k, v in config.items() if k != "model_type"})
        derived = CONFIG_MAPPING[kind](**fields).to_dict()
    except Exception:  # a config of another version, or damaged: it will be judged where the model is built
        return config
    lists = {k: v for k, v in derived.items() if config.get(k) is None and isinstance(v, list) and len(v) == before}
    return {**config, **{name: v for name, v in lists.items() if all(isinstance(item, str | int) for item in v)}}


def _one_each(name: str, value: Any, before: int) -> Callable[[Sequence[int]], Any] | None:
    """How to choose from an entry that has one part per layer; None for any other entry."""
    if isinstance(value, str) and name.endswith("_pattern") and len(value) == before:
        return lambda picked: "".join(value[layer] for layer in picked)  # Nemotron-H: "M-M*-"
    if name == "attention_types" and isinstance(value, list):  # GPT-Neo: [[["global", "local"], 12]]
        each = [kind for kinds, times in value for kind in kinds * times]
        return lambda picked: [[[each[layer] for layer in picked], 1]]
    if name == "block_types" and isinstance(value, list) and value:  # RecurrentGemma: as often as there are layers
        return lambda picked: [value[layer % len(value)] for layer in picked]
    if isinstance(value, list) and len(value) == before and not _OTHER_LISTS.search(name):
        return lambda picked: [value[layer] for layer in picked]
    return None


def _followed(name: str, value: Any, picked: Sequence[int], before: int) -> Any:
    """The entry's value for the picked layers; None where it does not speak of layers."""
    numbers = _numbers_layers(name, value, before)
    choose = _one_each(name, value, before)
    if not numbers and choose is None:
        return None
    if max(picked, default=0) >= before:
        raise InputError(
            f"config.json has {name} for {before} layers, and the merge takes layer {max(picked)}",
            remedy="name as base_model the model with the most layers",
        )
    if numbers:
        return [new for new, old in enumerate(picked) if old in value]
    return choose(picked) if choose is not None else None


def _numbers_layers(name: str, value: Any, before: int) -> bool:
    """Is it a list of layer numbers, in order? ([1, 1, 0] has one entry per layer.)"""
    return (
        _LAYER_NUMBERS.search(name) is not None
        and not _OTHER_LISTS.search(name.removesuffix("_layer_ids"))
        and isinstance(value, list)
        and all(type(item) is int and 0 <= item < before for item in value)
        and all(a < b for a, b in pairwise(value))
        and not (name == "no_rope_layers" and len(value) == before)
    )


def _sparse_steps(result: dict[str, Any], config: Mapping[str, Any], picked: Sequence[int]) -> None:
    """Qwen's MoE: layer i has experts unless it is in mlp_only_layers or (i + 1) mod decoder_sparse_step ≠ 0."""
    step = config.get("decoder_sparse_step")
    if type(step) is not int or step < 2:
        return
    dense = config.get("mlp_only_layers") or []
    result["mlp_only_layers"] = [new for new, old in enumerate(picked) if old in dense or (old + 1) % step]
    result["decoder_sparse_step"] = 1


def _moot(name: str, config: Mapping[str, Any]) -> bool:
    return name == "max_window_layers" and not config.get("use_sliding_window")


def _border(name: str, border: int, picked: Sequence[int], *, said: bool) -> int:
    """The number of picked layers before the border, all of which must come first."""
    below = [layer < border for layer in picked]
    if below != sorted(below, reverse=True) and not said:
        late = below.index(True, below.index(False))
        raise InputError(
            f"config.json sets the first {border} layers apart ({name}), and the merge takes layer {picked[late]} "
            f"after layer {picked[late - 1]}: no config.json says that",
            remedy=f"take layers below {border} only at the beginning",
        )
    return sum(below)


def _check_period(name: str, period: int, offset: Any, picked: Sequence[int]) -> None:
    for new, old in enumerate(picked):
        same = new % period == old % period
        if type(offset) is int and name.endswith("_period"):
            same = (new % period == offset) == (old % period == offset)
        if not same:
            raise InputError(
                f"config.json repeats its layers' kinds every {period} ({name}), and the merge takes layer {old} "
                f"as layer {new}, where another kind stands",
                remedy=f"move layers by multiples of {period}",
            )
