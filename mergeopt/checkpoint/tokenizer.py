"""Do two models speak the same tokens? Read off their files, without loading a tokenizer.

Rows of two embedding matrices may be added where the ids mean the same tokens; special tokens that play different parts
(another end of text, say) do not hinder that, but change how the result must be used, so they are told apart.
"""

from collections.abc import Iterable, Mapping

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.tokens import TOKENIZER_FILE, VOCABULARY_FILES, read_tokens, special_tokens

_COMPARED = ("bos_token", "eos_token", "pad_token", "unk_token")


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
    first, second = special_tokens(a), special_tokens(b)
    different = [name for name in _COMPARED if first.get(name) != second.get(name)]
    return ", ".join(f"{name} {first.get(name)!r} and {second.get(name)!r}" for name in different) or None


def _vocabulary(model: Checkpoint) -> Mapping[str, int] | None:
    """Token -> id, or None without a tokenizer.json."""
    tokens = read_tokens(model) if (model.folder / TOKENIZER_FILE).is_file() else None
    return None if tokens is None else tokens.ids


def _file_difference(a: Checkpoint, b: Checkpoint) -> str | None:
    """Where a tokenizer.json is missing: by the bytes of the vocabulary files that both have."""
    first, second = ({name for name in VOCABULARY_FILES if (c.folder / name).is_file()} for c in (a, b))
    if not first or not second:
        return None
    if not first & second:
        return f"{', '.join(sorted(first))} cannot be compared with {', '.join(sorted(second))}"
    different = [n for n in sorted(first & second) if (a.folder / n).read_bytes() != (b.folder / n).read_bytes()]
    return f"different {', '.join(different)}" if different else None


def _some(tokens: Iterable[str]) -> str:
    first = sorted(tokens)[:4]
    return ", ".join(repr(token) for token in first[:3]) + (", …" if len(first) > 3 else "")
