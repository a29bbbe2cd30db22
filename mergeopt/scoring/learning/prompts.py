"""Unlabelled prompts: what a teacher answers once, so that others can learn from it.

A list of prompts is a file or a data set and the column that holds them. It is streamed, so that a limit of some
thousands costs some thousands of rows, and equal prompts count once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets

from mergeopt.errors import InputError, did_you_mean
from mergeopt.scoring.chat import render_chat
from mergeopt.scoring.encoding import Encoder, Generation
from mergeopt.scoring.splits import content_hash

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}


@dataclass(frozen=True, slots=True)
class PromptList:
    """Where prompts come from.

    Exactly one of `file` and `dataset` (a Hub id or a local folder, with its `config` and `split`). `column` may be
    left out where there is only one. With `chat_template` a prompt is the user's turn, or a list of messages up to one;
    otherwise it is the text itself. `limit`: of different prompts, in order.
    """

    file: Path | None = None
    dataset: str | None = None
    config: str | None = None
    split: str = "train"
    column: str | None = None
    limit: int | None = None
    chat_template: bool = False

    def __post_init__(self) -> None:
        if (self.file is None) == (self.dataset is None):
            raise InputError("prompts come from a `file` or from a `dataset`", remedy="give one of the two")

    @property
    def where(self) -> str:
        """What to call it in a message."""
        return str(self.file or self.dataset)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids to continue, and a content hash."""

    tokens: tuple[int, ...]
    key: str


def read_prompts(source: PromptList, encoder: Encoder, generation: Generation) -> list[Prompt]:
    """The prompts of a list, cut from the left so that an answer of `generation` fits.

    Raises:
        InputError: No such file, data set or column; an unknown format; no prompts; no chat template.
    """
    texts = list(islice(_different(_texts(source, encoder)), source.limit))
    if not texts:
        raise InputError("there are no prompts", where=source.where)
    return encode(texts, encoder, generation)


def encode(texts: Sequence[str], encoder: Encoder, generation: Generation) -> list[Prompt]:
    """Rendered prompts in tokens."""
    return [Prompt(tuple(encoder.prompt(text, generation)), content_hash({"prompt": text})) for text in texts]


def of_tokens(prompts: Iterable[Sequence[int]]) -> list[Prompt]:
    """Prompts that are in tokens already."""
    return [Prompt(tuple(tokens), content_hash({"prompt": list(tokens)})) for tokens in prompts]


def as_chat(turn: Any, encoder: Encoder) -> str:
    """What a chat model is given for a user's turn (text), or for messages up to their last user's turn.

    Raises:
        InputError: The tokenizer has no chat template; messages without a user's turn.
    """
    messages = [{"role": "user", "content": turn}] if isinstance(turn, str) else list(turn)
    while messages and messages[-1].get("role") != "user":
        messages.pop()
    if not messages:
        raise InputError("messages without a user's turn", remedy="name the column that holds the prompts")
    return render_chat(encoder.tokenizer, messages, add_generation_prompt=True)


def _texts(source: PromptList, encoder: Encoder) -> Iterator[str]:
    with _placed(source):
        for row in _rows(source):
            value = row[_column(source, row)]
            if not value and isinstance(value, str | list | None):
                continue
            if source.chat_template and isinstance(value, str | list):
                yield as_chat(value, encoder)
            elif isinstance(value, str):
                yield value
            else:
                raise InputError(
                    f"column {_column(source, row)!r} holds {type(value).__name__}, not text",
                    where=source.where,
                    remedy="name the column that holds the prompts, or set `chat_template: true` for messages",
                )


def _different(texts: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text


def _rows(source: PromptList) -> Iterator[Mapping[str, Any]]:
    if source.file is None:
        return iter(datasets.load_dataset(source.dataset, source.config, split=source.split, streaming=True))
    kind = FORMATS.get(source.file.suffix.lower())
    if kind is None:
        raise InputError(
            f"prompts cannot be read from a {source.file.suffix or 'file without a suffix'}",
            where=source.where,
            remedy=f"give one of {', '.join(FORMATS)}",
        )
    if not source.file.is_file():
        raise InputError(f"no such file: {source.file}")
    return iter(datasets.load_dataset(kind, data_files=str(source.file), split="train", streaming=True))


def _column(source: PromptList, row: Mapping[str, Any]) -> str:
    if source.column is None and len(row) == 1:
        return next(iter(row))
    if source.column is None:
        names = ", ".join(row)
        raise InputError(f"prompts could be in any of {names}", where=source.where, remedy="name one with `column`")
    if source.column not in row:
        remedy = did_you_mean(source.column, list(row))
        raise InputError(f"there is no column {source.column!r}", where=source.where, remedy=remedy)
    return source.column


@contextmanager
def _placed(source: PromptList) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # datasets and the hub each have their own exceptions
        text = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"prompts cannot be read: {text[:300]}", where=source.where) from error
