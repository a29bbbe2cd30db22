"""The tokens of a tokenizer as data: read, cut to the rows that a model has, and added to.

`tokenizer.json` is edited as JSON, so that whatever it says beside its tokens stays as it is. Ids of a tokenizer's own
tokens never move; new tokens are numbered as the tokenizers library will number them when it reads the file.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.jsonfile import parse_json_object, read_json_object
from mergeopt.errors import InputError

CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILES = (
    TOKENIZER_FILE,
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
)
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}

Definition = Mapping[str, Any]  # an entry of `added_tokens`, without its id


@dataclass(frozen=True)
class Tokens:
    """A tokenizer's tokens.

    `ids`: token → id, added ones included. `added`: those that are matched as literal text, with their definitions.
    """

    name: str  # whose they are, for errors
    document: Mapping[str, Any]
    ids: Mapping[str, int]
    added: Mapping[str, Definition]

    def cut(self, rows: int) -> "Tokens":
        """Without the tokens that have no row in a matrix of `rows` rows."""
        if all(index < rows for index in self.ids.values()):
            return self
        document = dict(deepcopy(self.document))
        model = document["model"]
        if isinstance(model["vocab"], list):
            model["vocab"] = model["vocab"][:rows]
        else:
            model["vocab"] = {token: index for token, index in model["vocab"].items() if index < rows}
        if model.get("merges"):
            model["merges"] = [merge for merge in model["merges"] if _possible(merge, model["vocab"])]
        document["added_tokens"] = [e for e in document.get("added_tokens") or [] if e["id"] < rows]
        ids = {token: index for token, index in self.ids.items() if index < rows}
        return replace(self, document=document, ids=ids, added={t: d for t, d in self.added.items() if t in ids})

    def extended(self, new: Iterable[tuple[str, Definition | None]]) -> "Tokens":
        """With further tokens, in this order; those that it has only get the definition, where they had none.

        Raises:
            InputError: the ids have gaps, so that new tokens would get numbers that are taken.
        """
        ids, added = dict(self.ids), dict(self.added)
        vocab = len(self.document["model"]["vocab"])
        highest = max((ids[token] for token in added), default=-1)
        for token, definition in new:
            if token in ids and (definition is None or token in added):
                continue
            added[token] = definition or _PLAIN
            if token not in ids:
                ids[token] = max(vocab, highest + 1)
            highest = max(highest, ids[token])
        if len(set(ids.values())) < len(ids):
            raise InputError(
                f"the tokenizer of {self.name!r} leaves ids out, so no token can be added to it",
                remedy="give another model as the tokenizer's source",
            )
        if len(ids) == len(self.ids) and len(added) == len(self.added):
            return self
        entries = sorted(({"id": ids[t], "content": t, **d} for t, d in added.items()), key=lambda e: int(e["id"]))
        return replace(self, document={**self.document, "added_tokens": entries}, ids=ids, added=added)


def read_tokens(model: Checkpoint) -> Tokens | None:
    """A model's tokens; None where its folder has no tokenizer.

    A tokenizer that is not kept as tokenizer.json is converted by transformers.

    Raises:
        InputError: a file that cannot be read, a tokenizer that cannot be converted.
    """
    file = model.folder / TOKENIZER_FILE
    if file.is_file():
        document = read_json_object(file)
    elif any((model.folder / name).is_file() for name in VOCABULARY_FILES):
        document = _converted(model)
    else:
        return None
    try:
        vocab = document["model"]["vocab"]
        # Unigram lists [token, score] in the order of ids
        ids = {entry[0]: index for index, entry in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
        entries = {entry["content"]: entry for entry in document.get("added_tokens") or []}
        ids |= {token: entry["id"] for token, entry in entries.items()}
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        raise InputError("not a tokenizer: model.vocab or added_tokens is malformed", where=str(file)) from None
    if not all(isinstance(t, str) and type(i) is int and i >= 0 for t, i in ids.items()):
        raise InputError("not a tokenizer: a token's id is no number", where=str(file))
    added = {token: {k: v for k, v in entry.items() if k not in ("id", "content")} for token, entry in entries.items()}
    return _with_more(Tokens(model.name, document, ids, added), model)


def special_tokens(model: Checkpoint) -> dict[str, str]:
    """The special tokens by their part (``eos_token``); tokenizer_config.json has the last word."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", CONFIG_FILE):
        file = model.folder / name
        merged |= read_json_object(file) if file.is_file() else {}
    found = {name: content(merged.get(name)) for name in SPECIAL}
    return {name: token for name, token in found.items() if token is not None}


def content(token: Any) -> str | None:
    """A special token is a text or an object with its `content`."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _with_more(tokens: Tokens, model: Checkpoint) -> Tokens:
    """With tokens that older folders name only beside tokenizer.json, as far as their ids follow on."""
    named: dict[str, tuple[int, Definition | None]] = {}
    file = model.folder / "added_tokens.json"
    if file.is_file():
        named |= {token: (index, None) for token, index in read_json_object(file).items() if type(index) is int}
    file = model.folder / CONFIG_FILE
    decoder = read_json_object(file).get("added_tokens_decoder") if file.is_file() else None
    for index, entry in decoder.items() if isinstance(decoder, dict) else ():
        text = content(entry)
        if text is not None and index.isdigit():
            named[text] = int(index), {key: entry.get(key, default) for key, default in _PLAIN.items()}
    missing = sorted((index, token) for token, (index, _) in named.items() if token not in tokens.ids)
    for index, token in missing:
        longer = tokens.extended([(token, named[token][1])])
        if longer.ids[token] != index:
            break
        tokens = longer
    return tokens


def _converted(model: Checkpoint) -> dict[str, Any]:
    """The tokenizer.json that transformers makes of a tokenizer of another format."""
    from transformers import AutoTokenizer

    try:
        text = AutoTokenizer.from_pretrained(model.folder).backend_tokenizer.to_str()
    except Exception as error:  # transformers raises whatever its readers met
        said = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"its tokenizer cannot be converted to {TOKENIZER_FILE} ({type(error).__name__}: {said})",
            where=str(model.folder),
            remedy=f"save it as {TOKENIZER_FILE} with transformers",
        ) from None
    return parse_json_object(text.encode(), f"{model.folder} (converted tokenizer)")


def _possible(merge: Any, vocab: Mapping[str, int]) -> bool:
    """Are both halves of a BPE merge and its product still tokens?"""
    pair = merge if isinstance(merge, list) else str(merge).split(" ", 1)
    return len(pair) == 2 and all(str(part) in vocab for part in (*pair, "".join(map(str, pair))))
