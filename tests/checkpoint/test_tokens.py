"""Tokens read from any kind of tokenizer.json, cut and added to as the tokenizers library numbers them."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.tokens import read_tokens, special_tokens
from mergeopt.errors import InputError
from tests.conftest import llama_weights, write_model

BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3, "abc": 4}, "merges": ["a b", "ab c"]}
KINDS = {
    "BPE": BPE,
    "BPE in pairs": BPE | {"merges": [["a", "b"], ["ab", "c"]]},
    "WordLevel": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}, "unk_token": "a"},
    "WordPiece": {
        "type": "WordPiece", "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}, "unk_token": "a",
        "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
    },
    "Unigram": {"type": "Unigram", "unk_id": 0, "vocab": [[x, -1.0 * i] for i, x in enumerate("abcde")]},
}  # fmt: skip
TURN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@pytest.fixture
def model(tmp_path: Path) -> Checkpoint:
    return Checkpoint.open(write_model(tmp_path / "m", llama_weights()), name="m")


def written(model: Checkpoint, kind: dict[str, Any], added: list[dict[str, Any]] | None = None) -> None:
    document = json.loads(Tokenizer(models.BPE()).to_str()) | {"model": kind, "added_tokens": added or []}
    (model.folder / "tokenizer.json").write_text(json.dumps(document))


def loaded(document: Any) -> dict[str, int]:
    ids: dict[str, int] = Tokenizer.from_str(json.dumps(document)).get_vocab(with_added_tokens=True)
    return ids


@pytest.mark.parametrize("kind", list(KINDS))
def test_cut_and_extended_as_the_library_counts(model: Checkpoint, kind: str):
    written(model, KINDS[kind], [{"id": 5, "content": "<x>", **TURN}, {"id": 1, "content": "b", **TURN}])
    tokens = read_tokens(model)
    assert tokens is not None and tokens.ids["<x>"] == 5 and set(tokens.added) == {"<x>", "b"}
    assert tokens.cut(6) is tokens and tokens.extended([("a", None), ("b", TURN)]) is tokens
    short = tokens.cut(3)
    assert sorted(short.ids.values()) == [0, 1, 2] and loaded(short.document) == short.ids
    longer = short.extended([("new", None), ("<y>", TURN), ("a", TURN), ("new", TURN)])
    assert (longer.ids["new"], longer.ids["<y>"], longer.ids["a"]) == (3, 4, 0)
    assert loaded(longer.document) == longer.ids and longer.added["a"] == TURN and not longer.added["new"]["special"]
    assert loaded(tokens.document) == tokens.ids  # what it was made from is as it was


def test_merges_go_with_their_tokens(model: Checkpoint):
    written(model, BPE)
    tokens = read_tokens(model)
    assert tokens is not None
    assert tokens.cut(4).document["model"]["merges"] == ["a b"] and tokens.cut(2).document["model"]["merges"] == []


def test_tokens_named_only_beside_the_file(model: Checkpoint):
    written(model, BPE)
    (model.folder / "added_tokens.json").write_text(json.dumps({"<p>": 5, "<far>": 90, "a": 0}))
    decoder = {"6": {"content": "<q>", "special": True}}
    (model.folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    tokens = read_tokens(model)
    assert tokens is not None and (tokens.ids["<p>"], tokens.ids["<q>"]) == (5, 6) and "<far>" not in tokens.ids
    assert tokens.added["<q>"]["special"] and loaded(tokens.document) == tokens.ids


def test_a_tokenizer_with_gaps_cannot_be_added_to(model: Checkpoint):
    written(model, KINDS["WordLevel"] | {"vocab": {"a": 0, "b": 1, "c": 3}})
    tokens = read_tokens(model)
    assert tokens is not None
    with pytest.raises(InputError, match="the tokenizer of 'm' leaves ids out"):
        tokens.extended([("new", None)])


@pytest.mark.parametrize(
    "kind", [{"vocab": 3}, {"vocab": {"a": "x"}}, {"vocab": [["a"], []]}, {}, {"vocab": {"a": -1}}]
)
def test_what_is_no_tokenizer_is_said(model: Checkpoint, kind: dict[str, Any]):
    (model.folder / "tokenizer.json").write_text(json.dumps({"model": kind}))
    with pytest.raises(InputError, match="not a tokenizer"):
        read_tokens(model)


def test_no_tokenizer_and_one_that_cannot_be_converted(model: Checkpoint):
    assert read_tokens(model) is None
    (model.folder / "tokenizer.model").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"its tokenizer cannot be converted to tokenizer.json"):
        read_tokens(model)


def test_special_tokens(model: Checkpoint):
    (model.folder / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "x"})
    )
    (model.folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": None}))
    assert special_tokens(model) == {"bos_token": "<s>", "eos_token": "</s>"}
