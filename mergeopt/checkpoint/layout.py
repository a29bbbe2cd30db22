"""Layers read off tensor names, for any architecture.

In ``model.layers.3.mlp.experts.5.w1.weight`` the first number that counts the members of a *stack* is the layer: stack
``model.layers``, layer 3, part ``mlp.experts.5.w1.weight``. A prefix is a stack when its numbers are 0..n-1 without a
gap and its members share a sub-module's parameter (``norm.weight``); the bare ``weight`` and ``bias`` of an
``nn.Sequential`` head (``classifier.0.weight``) are not enough.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from mergeopt.checkpoint.header import StoredTensor
from mergeopt.recipe.shape import Shape, TensorInfo

_NUMBER = re.compile(r"(?<=[^.]\.)(?:0|[1-9][0-9]{0,8})(?=\.)")

LAYER_COUNT_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def shape_of(tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> Shape:
    """The model's shape: every tensor placed in a stack or named outer, in the order given."""
    counts = _stacks(tensors, config)
    infos = {}
    for name, tensor in tensors.items():
        stack, layer, part = _place(name, counts)
        infos[name] = TensorInfo(name, tensor.shape, tensor.dtype, stack, layer, part)
    used = {info.stack for info in infos.values()}
    return Shape(infos, {stack: count for stack, count in counts.items() if stack in used})


def layer_count_keys(stack: str = "") -> tuple[str, ...]:
    """Keys that may hold a stack's number of layers; encoder-decoders count their halves apart."""
    halves = {"decoder": ("num_decoder_layers", "decoder_layers"), "encoder": ("num_encoder_layers", "encoder_layers")}
    return (*next((keys for half, keys in halves.items() if half in stack.split(".")), ()), *LAYER_COUNT_KEYS)


def layer_count(config: Mapping[str, Any], stack: str = "") -> tuple[str, int] | None:
    """The key and number of layers as `config` states them, or None."""
    for key in layer_count_keys(stack):
        count = config.get(key)
        if type(count) is int and count > 0:
            return key, count
    for key in ("layers_block_type", "layer_types"):  # Nemotron-H counts its layers by listing them
        if isinstance(config.get(key), list):
            return key, len(config[key])
    return None


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a config: ``text_config`` of a multimodal model, else the config itself."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def quantisation(config: Mapping[str, Any]) -> str:
    """How the weights are quantised, as `config` states it ("gptq", "fp8"); "" for plain weights."""
    stated = config.get("quantization_config") or text_config(config).get("quantization_config")
    if not isinstance(stated, Mapping):
        return ""
    kind = stated.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in stated else "in a way that it names not")
    return str(kind)


def _stacks(names: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> dict[str, int]:
    members: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        for prefix, index, part in _splits(name):
            members[prefix][index].add(part)
    text = text_config(config)
    stated = layer_count(text)
    counts = {}
    for prefix, layers in members.items():
        count = len(layers)
        if set(layers) != set(range(count)):
            continue
        shared = set.intersection(*layers.values())
        if any("." in part for part in shared) or (stated and count == stated[1] > 1):
            counts[prefix] = count - _prediction_layers(text, count)
    return counts


def _prediction_layers(config: Mapping[str, Any], found: int) -> int:
    """Multi-token-prediction layers filed after the last real layer (DeepSeek-V3, GLM-4.5): outer, not depth."""
    extra, stated = config.get("num_nextn_predict_layers"), layer_count(config)
    return extra if type(extra) is int and extra > 0 and stated and found == stated[1] + extra else 0


def _splits(name: str) -> list[tuple[str, int, str]]:
    """Every way to read `name` as prefix, number, part, outermost number first."""
    return [(name[: m.start() - 1], int(m[0]), name[m.end() + 1 :]) for m in _NUMBER.finditer(name)]


def _place(name: str, counts: Mapping[str, int]) -> tuple[str, int | None, str]:
    for prefix, index, part in _splits(name):
        if prefix in counts:
            return (prefix, index, part) if index < counts[prefix] else ("", None, name)
    return "", None, name
