"""What a model folder holds beside its weights: the donor's tokenizer and processor files, and the config.

Tokenizer files are copied byte for byte (loading and saving them rewrites them). Only names on the list are copied:
never weights, never a card, never code.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from mergeopt.checkpoint.checkpoint import Checkpoint, is_inside
from mergeopt.checkpoint.jsonfile import encode_json
from mergeopt.checkpoint.layout import LAYER_COUNT_KEYS, layer_count, text_config
from mergeopt.errors import InputError, MergeoptError
from mergeopt.files import remove_files, write_text

SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "normalizer.json",
    "tekken.json",
    "*.tiktoken",
    "tokenizer.model",
    "tokenizer.model.v*",
    "spiece.model",
    "sentencepiece.bpe.model",
    "*.spm",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
)

# Config entries that may be a list with one value per layer.
_PER_LAYER = {
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "attention_layers",
    "no_rope_layers",
    "block_configs",
    "activation_sparsity_pattern",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_query_heads",
    "num_kv_heads",
    "ffn_multipliers",
}


def side_files(donor: Checkpoint) -> tuple[Path, ...]:
    """The donor's files that belong in every model made from it, config and weights aside."""
    return tuple(file for file in _matching(donor.folder) if is_inside(file, donor.folder))


def side_file_names(folder: Path) -> tuple[str, ...]:
    """What a folder holds of config and side files, by path inside it."""
    found = tuple(file.relative_to(folder).as_posix() for file in _matching(folder))
    return (*found, "config.json") if (folder / "config.json").is_file() else found


def remove_side_files(folder: Path) -> None:
    """Removes an earlier model's side files: with one of them left, a new model would speak in another way.

    Raises:
        MergeoptError: no permission.
    """
    remove_files(_matching(folder))


def copy_side_files(donor: Checkpoint, out: Path) -> tuple[Path, ...]:
    """Copies the side files byte for byte, each appearing whole; returns the copies.

    Raises:
        MergeoptError: disk full, no permission.
    """
    copies = []
    for file in side_files(donor):
        copy = out / file.relative_to(donor.folder)
        _copy(file, copy)
        copies.append(copy)
    return tuple(copies)


def output_config(
    config: Mapping[str, Any],
    *,
    dtype: str,
    layers: int | None = None,
    tie: bool | None = None,
    picked: Sequence[int] | None = None,
) -> dict[str, Any]:
    """The donor's config, for the weights that were written.

    Args:
        config: The donor's.
        dtype: Torch's name of the weights' dtype; `torch_dtype`, the key of old, goes.
        layers: Number of layers written; None keeps the donor's.
        tie: Whether the head shares the embedding; None keeps the donor's word.
        picked: The donor's layer behind each output layer: lists with one entry per layer (``layer_types``) follow it.

    Raises:
        InputError: the number of layers changes, and the config has no key for it, or has lists with one entry per
            layer that `picked` cannot be followed in.
    """
    result = deepcopy(dict(config))
    language = result["text_config"] if text_config(result) is not result else result
    nested = [part for key, part in result.items() if key.endswith("_config") and isinstance(part, dict)]
    for part in nested:
        if part is not result.get("quantization_config") and {"dtype", "torch_dtype"} & part.keys():
            part.pop("torch_dtype", None)
            part["dtype"] = dtype
    result.pop("torch_dtype", None)
    result["dtype"] = dtype
    if tie is not None:
        for part in [p for p in (result, language) if "tie_word_embeddings" in p] or [result]:
            part["tie_word_embeddings"] = tie
    if layers is not None:
        _set_layers(language, layers, picked)
    return result


def write_config(out: Path, config: Mapping[str, Any]) -> None:
    """Writes ``config.json``, appearing whole."""
    write_text(out / "config.json", encode_json(config).decode("utf-8"))


def _matching(folder: Path) -> list[Path]:
    found = dict.fromkeys(file for pattern in SIDE_FILES for file in sorted(folder.glob(pattern)))
    return [file for file in found if file.is_file()]


def _copy(file: Path, copy: Path) -> None:
    temporary = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, temporary)
        temporary.replace(copy)
    except OSError as fault:
        temporary.unlink(missing_ok=True)
        raise MergeoptError(f"{copy}: cannot be copied from {file} ({fault.strerror})") from fault


def _set_layers(config: dict[str, Any], layers: int, picked: Sequence[int] | None) -> None:
    stated = layer_count(config)
    if stated is None:
        keys = ", ".join(LAYER_COUNT_KEYS)
        raise InputError(f"config.json has none of {keys}: a model of {layers} layers cannot be described")
    key, before = stated
    for name in _PER_LAYER & config.keys():
        value = config[name]
        if not isinstance(value, list) or len(value) != before:
            continue
        if picked is not None and max(picked, default=0) < before:
            config[name] = [value[layer] for layer in picked]
        elif picked is not None or layers != before:
            raise InputError(f"config.json lists {name} for {before} layers, the merge has {layers}")
    config[key] = layers
