import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.tokenizer import same_tokenizer, special_token_difference, vocabulary_difference
from mergeopt.errors import InputError

MakeModel = Callable[..., Path]
Model = Callable[..., Checkpoint]


@pytest.fixture
def model(make_model: MakeModel) -> Model:
    def make(name: str, vocab: Any = None, added: Any = (), eos: Any = "</s>", **files: bytes) -> Checkpoint:
        folder = make_model(name)
        if vocab is not None:
            added = [{"content": token, "id": index} for token, index in added]
            (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": added}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
        for file, data in files.items():
            (folder / file.replace("_", ".")).write_bytes(data)
        return Checkpoint.open(folder, name=name)

    return make


def test_the_same_vocabulary_in_two_forms(model: Model) -> None:
    a = model("a", {"x": 0, "y": 1}, [("</s>", 2)])
    b = model("b", [["x", -1.0], ["y", -2.0], ["</s>", 0.0]], eos={"content": "</s>", "lstrip": False})
    assert vocabulary_difference(a, b) is None
    assert same_tokenizer(a, b)


def test_differences_are_named(model: Model) -> None:
    a = model("a", {"x": 0, "y": 1, "z": 2})
    b = model("b", {"x": 0, "z": 1, "y": 2}, [("<|im_end|>", 3)], eos="<|im_end|>")
    assert vocabulary_difference(a, b) == ("3 and 4 tokens, 1 only in b ('<|im_end|>'), 2 at other ids ('y', 'z')")
    assert special_token_difference(a, b) == "eos_token '</s>' and '<|im_end|>'"
    assert not same_tokenizer(a, b)


def test_special_tokens_alone(model: Model) -> None:
    a, b = model("a", {"x": 0}), model("b", {"x": 0}, eos=None)
    assert vocabulary_difference(a, b) is None
    assert special_token_difference(a, b) == "eos_token '</s>' and None"
    assert not same_tokenizer(a, b)


def test_without_tokenizer_json_by_bytes(model: Model) -> None:
    a, b, c = model("a", tokenizer_model=b"1"), model("b", tokenizer_model=b"1"), model("c", tokenizer_model=b"2")
    assert vocabulary_difference(a, b) is None
    assert vocabulary_difference(a, c) == "different tokenizer.model"
    assert vocabulary_difference(a, model("none")) is None
    assert vocabulary_difference(a, model("fast", {"x": 0})) == "tokenizer.model cannot be compared with tokenizer.json"


@pytest.mark.parametrize("vocab", [3, [[]], [3], "x", [[1, 0.5]], {"a": "0"}])
def test_a_malformed_tokenizer_names_its_file(model: Model, vocab: Any) -> None:
    with pytest.raises(InputError, match=r"tokenizer.json: not a tokenizer"):
        vocabulary_difference(model("a", vocab), model("b", {"x": 0}))
