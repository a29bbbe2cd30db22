"""What differs beside the weights: tensors, config, tokenizer, chat template. Read off headers and small files.

Each finding says what it means for a merge. "stop": no merge can be right; "mind": a merge needs care; "note": the
output carries one model's setting, and one should know whose.
"""

import filecmp
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.layout import text_config
from mergeopt.checkpoint.tokenizer import special_token_difference, vocabulary_difference
from mergeopt.diagnose.subjects import Subjects, is_vocabulary
from mergeopt.merge.names import is_buffer, is_head
from mergeopt.merge.templates import chat_template
from mergeopt.recipe.recipe import ModelRef

Level = Literal["stop", "mind", "note"]

SILENT = ("_name_or_path", "transformers_version", "architectures", "use_cache", "dtype", "torch_dtype")  # no matter
SIZES = ("num_hidden_layers", "n_layer", "num_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
MEANING: Mapping[str, tuple[Level, str]] = {
    "model_type": ("stop", "another architecture"),
    **dict.fromkeys(SIZES, ("stop", "weights of another size or order")),
    "hidden_act": ("stop", "the same weights compute something else"),
    "activation_function": ("stop", "the same weights compute something else"),
    "rope_theta": ("mind", "attention turns at another speed: take the longer-context model's with its q and k"),
    "rope_scaling": ("mind", "attention turns at another speed: take the longer-context model's with its q and k"),
    "rope_parameters": ("mind", "attention turns at another speed: take the longer-context model's with its q and k"),
    "rms_norm_eps": ("mind", "norms compute something else"),
    "layer_norm_eps": ("mind", "norms compute something else"),
    "tie_word_embeddings": ("mind", "one head is its embeddings, the other is not"),
    "num_experts_per_tok": ("mind", "tokens go to another number of experts"),
    "eos_token_id": ("mind", "answers end with another token"),
    "vocab_size": ("mind", "rows beyond the shorter vocabulary belong to one model"),
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about `model`, compared with the reference."""

    level: Level
    model: ModelRef
    text: str


def findings(subjects: Subjects) -> tuple[Finding, ...]:
    """Every difference between the models and the reference, the gravest first.

    Raises:
        InputError: a tokenizer file that cannot be read.
    """
    order: tuple[Level, ...] = ("stop", "mind", "note")
    found = [
        Finding(level, ref, text)
        for ref in subjects.others
        for level, text in (*_tensors(subjects, ref), *_config(subjects, ref), *_tokenizer(subjects, ref))
    ]
    return tuple(sorted(found, key=lambda finding: order.index(finding.level)))


def _tensors(subjects: Subjects, ref: ModelRef) -> Iterator[tuple[Level, str]]:
    mine = {info.name: info for info in subjects.shape(ref) if not is_buffer(info)}
    theirs = {info.name: info for info in subjects.shape(subjects.reference) if not is_buffer(info)}
    for here, there, word in ((theirs, mine, "lacks"), (mine, theirs, "has, alone,")):
        names = [name for name in here if name not in there]
        if names:
            level: Level = "mind" if all(is_head(name) for name in names) else "stop"
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield level, f"{word} tensor {names[0]}{more}"
    other = [name for name in theirs if name in mine and mine[name].shape != theirs[name].shape]
    for name in other[:3]:
        rows = is_vocabulary(name) and mine[name].shape[1:] == theirs[name].shape[1:]
        sizes = f"{list(mine[name].shape)}, not {list(theirs[name].shape)}"
        yield ("mind", f"{name} has other rows: {sizes}") if rows else ("stop", f"{name} is {sizes}")
    dtypes = {mine[name].dtype for name in theirs if name in mine and mine[name].dtype != theirs[name].dtype}
    if dtypes:
        yield "note", f"stored as {', '.join(sorted(dtypes))}, unlike the reference"


def _config(subjects: Subjects, ref: ModelRef) -> Iterator[tuple[Level, str]]:
    mine, theirs = (text_config(subjects.checkpoints[one].config) for one in (ref, subjects.reference))
    for key in dict.fromkeys((*theirs, *mine)):
        if key in SILENT or mine.get(key) == theirs.get(key):
            continue
        level, meaning = MEANING.get(key, ("note", ""))
        values = f"{_brief(mine.get(key))}, not {_brief(theirs.get(key))}"
        yield level, f"config {key} is {values}{f': {meaning}' if meaning else ''}"


def _tokenizer(subjects: Subjects, ref: ModelRef) -> Iterator[tuple[Level, str]]:
    mine, theirs = subjects.checkpoints[ref], subjects.checkpoints[subjects.reference]
    if not _same_tokenizer_files(mine, theirs):
        vocabulary = vocabulary_difference(theirs, mine)
        if vocabulary:
            yield "mind", f"another tokenizer ({vocabulary}): rows of the embeddings mean other tokens"
        special = special_token_difference(theirs, mine)
        if special:
            yield "mind", f"other special tokens: {special}"
    if chat_template(mine) != chat_template(theirs):
        yield "note", "another chat template; prompts must be written in the one that the output carries"


def _same_tokenizer_files(a: Checkpoint, b: Checkpoint) -> bool:
    """Spares parsing them, which takes long for large vocabularies."""
    return all(
        (a.folder / name).is_file() == (b.folder / name).is_file()
        and (not (a.folder / name).is_file() or filecmp.cmp(a.folder / name, b.folder / name, shallow=False))
        for name in TOKENIZER_FILES
    )


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
