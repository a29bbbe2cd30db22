"""What an ``adapter_config.json`` of peft says: which modules a LoRA changes, and by how much.

LoRA (Hu et al. 2021, arXiv 2106.09685): W' = W + s·B A with s = α / r; rsLoRA (Kalajdzievski 2023, arXiv 2312.03732):
s = α / √r. Whatever makes an adapter mean more than that sum is refused by name.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergeopt.checkpoint.jsonfile import read_json_object
from mergeopt.errors import InputError

CONFIG_FILE = "adapter_config.json"
MERGE_FIRST = "merge it into its model with peft (merge_and_unload) and name the result"

# Keys that, where they say anything, change what the stored factors mean.
_BEYOND = {
    "use_dora": "weight-decomposed (DoRA)",
    "use_qalora": "QA-LoRA",
    "target_parameters": "on parameters instead of modules (target_parameters)",
    "trainable_token_indices": "with trained token rows (trainable_token_indices)",
    "layer_replication": "on a stack with repeated layers (layer_replication)",
    "alora_invocation_tokens": "switched on by tokens (aLoRA)",
    "lora_bias": "with a bias of its own (lora_bias)",
    "use_bdlora": "block-diagonal (BD-LoRA)",
    "arrow_config": "routed (Arrow)",
    "kasa_config": "scaled by singular values (KaSA)",
    "monteclora_config": "sampled (MonteCLoRA)",
}
# Starting points that leave the model's own weights alone; the others take out of W what they put into B A.
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
_MAX_REPEATS = 8


@dataclass(frozen=True)
class LoraConfig:
    """The part of an adapter's config that its weights are read by; names as peft's."""

    base: str
    r: int
    alpha: float
    rank_stabilised: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: str | Sequence[str] | None
    exclude_modules: str | Sequence[str] | None
    layers: Sequence[int] | None
    layers_pattern: Sequence[str]
    fan_in_fan_out: bool
    where: str

    @classmethod
    def read(cls, folder: Path) -> "LoraConfig":
        """The config of an adapter's folder.

        Raises:
            InputError: no such file, no LoRA, or one that is more than a low-rank sum.
        """
        file = folder / CONFIG_FILE
        if not file.is_file():
            raise InputError(f"not an adapter: no {CONFIG_FILE}", where=str(folder))
        data, where = read_json_object(file), str(file)
        _refuse_beyond(data, where)
        layers = data.get("layers_to_transform")
        layers = [layers] if type(layers) is int else layers or []
        if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
            raise InputError("layers_to_transform is no list of numbers", where=where)
        pattern = _names(data, "layers_pattern", where)
        config = cls(
            base=str(data.get("base_model_name_or_path") or ""),
            r=_number(data.get("r"), "r", where, whole=True),
            alpha=_number(data.get("lora_alpha"), "lora_alpha", where),
            rank_stabilised=bool(data.get("use_rslora")),
            rank_pattern=_patterns(data, "rank_pattern", where, whole=True),
            alpha_pattern=_patterns(data, "alpha_pattern", where),
            target_modules=_names(data, "target_modules", where),
            exclude_modules=_names(data, "exclude_modules", where),
            layers=layers or None,
            layers_pattern=[pattern] if isinstance(pattern, str) and pattern else pattern or (),
            fan_in_fan_out=bool(data.get("fan_in_fan_out")),
            where=where,
        )
        config._check_patterns()
        return config

    def scale(self, module: str, rank: int) -> float:
        """s of a module whose factors have this rank.

        Raises:
            InputError: the config gives the module another rank.
        """
        stated = _of(self.rank_pattern, module, self.r)
        if stated != rank:
            raise InputError(f"gives {module!r} rank {stated}, its weights have rank {rank}", where=self.where)
        alpha: float = _of(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)

    def selects(self, module: str) -> bool:
        """Does the config put an adapter on this module? peft leaves out the weights of others."""
        if self.exclude_modules and _matches(self.exclude_modules, module):
            return False
        if self.target_modules is None or self.target_modules == "all-linear":
            return True
        if not _matches(self.target_modules, module):
            return False
        listed = not isinstance(self.target_modules, str) and module not in self.target_modules
        return not listed or self.layers is None or self._layer(module) in self.layers

    def _layer(self, module: str) -> int | None:
        """The first number after a word, or after one of `layers_pattern`."""
        for pattern in self.layers_pattern or (r"[^.]*",):
            found = re.match(rf"(?:^|.*?\.){pattern}\.(?P<layer>\d+)\.", module)
            if found:
                return int(found["layer"])
        return None

    def _check_patterns(self) -> None:
        """Patterns come from strangers: one that could search for ever is not tried, nor one that is no pattern."""
        single = [text for text in (self.target_modules, self.exclude_modules) if isinstance(text, str)]
        for text in [*single, *self.rank_pattern, *self.alpha_pattern, *self.layers_pattern]:
            if re.search(r"\)[*+{]", text) or len(re.findall(r"[*+{]", text)) > _MAX_REPEATS:
                raise InputError(f"the pattern {text!r} repeats too much to be searched for", where=self.where)
            try:
                re.compile(rf"(.*\.)?({text})$")
                re.compile(rf"{text}\.(?P<layer>\d+)")
            except (re.error, RecursionError, OverflowError) as fault:
                raise InputError(f"{text!r} is no pattern: {fault}", where=self.where) from None


def _matches(names: str | Sequence[str], module: str) -> bool:
    """A pattern for the whole name, or a list of ends of names."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _of(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """The value of the first pattern that fits the end of the module's name."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def _refuse_beyond(data: Mapping[str, Any], where: str) -> None:
    kind = data.get("peft_type")
    if kind != "LORA":
        raise InputError(f"an adapter of type {kind!r}; only LORA is a sum of low-rank products", where=where,
                         remedy=MERGE_FIRST)  # fmt: skip
    for key, what in _BEYOND.items():
        if data.get(key):
            raise InputError(f"an adapter {what} is more than a low-rank sum", where=where, remedy=MERGE_FIRST)
    start = data.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        problem = f"init_lora_weights {start!r} changed the model's own weights, which the adapter does not hold"
        raise InputError(problem, where=where, remedy=MERGE_FIRST)


def _number(value: Any, key: str, where: str, *, whole: bool = False) -> Any:
    kind = type(value) is int or (type(value) is float and not whole and math.isfinite(value))
    if not kind or abs(value) > 1e30 or (whole and value < 1):
        raise InputError(f"{key} is {value!r}, not a {'positive whole ' if whole else ''}number", where=where)
    return value


def _patterns(data: Mapping[str, Any], key: str, where: str, *, whole: bool = False) -> dict[str, Any]:
    found = data.get(key) or {}
    if not isinstance(found, dict):
        raise InputError(f"{key} is no mapping", where=where)
    return {pattern: _number(value, f"{key} {pattern!r}", where, whole=whole) for pattern, value in found.items()}


def _names(data: Mapping[str, Any], key: str, where: str) -> str | list[str] | None:
    found = data.get(key)
    if found is None or isinstance(found, str) or (isinstance(found, list) and all(isinstance(n, str) for n in found)):
        return found
    raise InputError(f"{key} is neither names nor a pattern", where=where)
