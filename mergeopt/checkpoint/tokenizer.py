"""Do two models speak the same tokens? Read off their files, without loading a tokenizer.

Rows of two embedding matrices may be added where the ids mean the same tokens; special tokens that play different parts
(another end of text, say) do not hinder that, but change how the result must be used, so they are told apart.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.jsonfile import read_json_object
from mergeopt.errors import InputError

_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_VOCABULARY_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
)


def same_tokenizer(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether both give the same ids to the same tokens and use the same special tokens."""
    return vocabulary_difference(a, b) is None and special_token_difference(a, b) is None


def vocabulary_difference(a: Checkpoint, b: Checkpoint) -> str | None:
    """What differs between the two id -> token tables, in a phrase; None where they agree or one of them has none.

    Raises:
        InputError: a tokenizer file that cannot be read.
    """
    first, second = _vocabulary(a), _vocabulary(b)
    if first is None or second is None:
        return _file_difference(a, b)
    if first == second:
        return None
    moved = [token for token, index in first.items() if second.get(token, index) != index]
    only_a, only_b = first.keys() - second.keys(), second.keys() - first.keys()
    parts = [f"{len(first)} and {len(second)} tokens"] if len(first) != len(second) else []
    parts += [f"{len(only)} only in {c.name} ({_some(only)})" for only, c in ((only_a, a), (only_b, b)) if only]
    parts += [f"{len(moved)} at other ids ({_some(moved)})"] if moved else []
    return ", ".join(parts)


def special_token_difference(a: Checkpoint, b: Checkpoint) -> str | None:
    """The special tokens that differ, e.g. ``"eos_token '</s>' and '<|im_end|>'"``, else None."""
    first, second = _special_tokens(a), _special_tokens(b)
    different = [name for name in _SPECIAL if first.get(name) != second.get(name)]
    return ", ".join(f"{name} {first.get(name)!r} and {second.get(name)!r}" for name in different) or None


def _vocabulary(model: Checkpoint) -> dict[str, int] | None:
    """Token -> id from tokenizer.json, or None without one."""
    file = model.folder / "tokenizer.json"
    if not file.is_file():
        return None
    document = read_json_object(file)
    try:
        vocab = document["model"]["vocab"]
        # Unigram lists [token, score] in the order of ids
        table = {entry[0]: index for index, entry in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
        table |= {entry["content"]: entry["id"] for entry in document.get("added_tokens") or []}
        if not all(isinstance(token, str) and type(index) is int for token, index in table.items()):
            raise TypeError
        return table
    except (KeyError, TypeError, IndexError, ValueError):
        raise InputError("not a tokenizer: model.vocab or added_tokens is malformed", where=str(file)) from None


def _file_difference(a: Checkpoint, b: Checkpoint) -> str | None:
    """Where a tokenizer.json is missing: by the bytes of the vocabulary files that both have."""
    first, second = ({name for name in _VOCABULARY_FILES if (c.folder / name).is_file()} for c in (a, b))
    if not first or not second:
        return None
    if not first & second:
        return f"{', '.join(sorted(first))} cannot be compared with {', '.join(sorted(second))}"
    different = [n for n in sorted(first & second) if (a.folder / n).read_bytes() != (b.folder / n).read_bytes()]
    return f"different {', '.join(different)}" if different else None


def _special_tokens(model: Checkpoint) -> dict[str, str | None]:
    """The names of the special tokens; tokenizer_config.json has the last word."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = model.folder / name
        merged |= read_json_object(file) if file.is_file() else {}
    return {name: _content(merged.get(name)) for name in _SPECIAL}


def _content(token: Any) -> str | None:
    """A special token is a text or an object with its `content`."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _some(tokens: Iterable[str]) -> str:
    first = sorted(tokens)[:4]
    return ", ".join(repr(token) for token in first[:3]) + (", …" if len(first) > 3 else "")
