"""What a model folder holds beside its weights: the donor's tokenizer and processor files, and the config.

Tokenizer files are copied byte for byte (loading and saving them rewrites them). Only names on the list are copied:
never weights, never a card, never code.
"""

import os
import shutil
from collections.abc import Mapping, Sequence, Set
from copy import deepcopy
from pathlib import Path
from typing import Any

from mergeopt.checkpoint.checkpoint import Checkpoint, is_inside
from mergeopt.checkpoint.jsonfile import encode_json
from mergeopt.checkpoint.layered import follow_layers, per_layer
from mergeopt.checkpoint.layout import layer_count, layer_count_keys, text_config
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


def copy_side_files(donor: Checkpoint, out: Path, *, without: Set[str] = frozenset()) -> tuple[Path, ...]:
    """Copies the side files byte for byte, each appearing whole, but those called as in `without`; returns the copies.

    Raises:
        MergeoptError: disk full, no permission.
    """
    copies = []
    for file in side_files(donor):
        copy = out / file.relative_to(donor.folder)
        if copy.name in without:
            copy.unlink(missing_ok=True)  # of an earlier model
            continue
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
    stack: str = "",
) -> dict[str, Any]:
    """The donor's config, for the weights that were written.

    Args:
        config: The donor's.
        dtype: Torch's name of the weights' dtype; `torch_dtype`, the key of old, goes.
        layers: Number of layers written; None keeps the donor's.
        tie: Whether the head shares the embedding; None keeps the donor's word.
        picked: The donor's layer behind each output layer: what is said of single layers (``layer_types``) follows it.
        stack: The layers that were written, ``model.decoder.layers``: encoders and decoders are counted apart.

    Raises:
        InputError: the number of layers changes, and the config has no key for it, or has no words for the layers
            that were picked.
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
        _set_layers(language, layers, picked, stack)
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


def _set_layers(config: dict[str, Any], layers: int, picked: Sequence[int] | None, stack: str) -> None:
    keys = layer_count_keys(stack)
    stated = layer_count(config, stack)
    if stated is None:
        raise InputError(f"config.json has none of {', '.join(keys)}: a model of {layers} layers cannot be described")
    before = stated[1]
    if picked is not None:
        config.update(follow_layers(config, picked, before))
    elif layers != before and (lists := per_layer(config, before)):
        raise InputError(f"config.json lists {lists[0]} for {before} layers, the merge has {layers}")
    for key in keys:
        if config.get(key) == before:
            config[key] = layers
