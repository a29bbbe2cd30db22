"""The same vocabulary means the same rows to mergekit 0.1.5 and to us, token by token (its new ids are random).

Tokens whose id has no row make mergekit fail (KeyError), as does a rule without a source; those are ours alone and
stand in tests/merge/test_vocabulary.py.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import AddedToken

from mergeopt.merge.folder import merge_to_folder
from tests.merge.conftest import prepared
from tests.speakers import Speaker, write_speaker

pytestmark = pytest.mark.golden

TURN = AddedToken("<|im_start|>", special=True, normalized=False)
LINEAR = """
merge_method: linear
models:
  - {model: its_a, parameters: {weight: 0.5}}
  - {model: its_b, parameters: {weight: 0.3}}
  - {model: its_base, parameters: {weight: 0.2}}
dtype: float32
"""
WITH_BASE = LINEAR + "base_model: its_base\n"
SLERP = "merge_method: slerp\nbase_model: its_base\nmodels: [{model: its_a}, {model: its_base}]\nparameters: {t: 0.4}\n"
DELTAS = """
merge_method: %s
base_model: its_base
models:
  - {model: its_a, parameters: {weight: 0.7, density: 0.5}}
  - {model: its_b, parameters: {weight: 0.6, density: 0.5}}
dtype: float32
"""
RULES = """
tokenizer:
  source: union
  tokens:
    he: {source: its_a, force: true}
    foo: {source: {kind: model_token, model: its_a, token: ll}, force: true}
    xy: {source: {kind: model_token, model: its_a, token_id: 7}}
    "<|im_start|>": {source: its_b}
    new: {source: {kind: model_token, model: its_base, token: A}}
"""
RECIPES = {
    "base": WITH_BASE + "tokenizer_source: base\n",
    "no base_model": LINEAR.replace("its_base", "its_c") + "tokenizer_source: its_a\n",
    "model": WITH_BASE + "tokenizer_source: its_a\n",
    "union": WITH_BASE + "tokenizer_source: union\n",
    "union of three": WITH_BASE.replace("models:\n", "models:\n  - {model: its_c, parameters: {weight: 0.4}}\n")
    + "tokenizer: {}\n",
    "padded": WITH_BASE + "tokenizer: {source: union, pad_to_multiple_of: 16}\n",
    "slerp": SLERP + "dtype: float32\ntokenizer_source: union\n",
    "rules": WITH_BASE + RULES,
    "zero": WITH_BASE + "tokenizer: {tokens: {he: {source: {kind: zero}}, foo: {source: {kind: zero}, force: true}}}\n",
    "task arithmetic": DELTAS % "task_arithmetic" + "tokenizer_source: union\n",
    "ties": DELTAS % "ties" + "tokenizer_source: union\n",
    "tied": WITH_BASE.replace("model: its_b,", "model: its_tied,") + "tokenizer_source: union\n",
    "half": WITH_BASE.replace("model: its_b,", "model: its_half,") + "tokenizer_source: union\n",
}


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speakers")  # names of their own: mergekit remembers models by their paths
    write_speaker(folder / "its_base", 0, spare=2)
    write_speaker(folder / "its_a", 1, [("h", "e"), ("l", "l")], [TURN])
    added = [TURN, AddedToken("he", lstrip=True), "foo"]
    write_speaker(folder / "its_b", 2, [("x", "y")], added, spare=3)
    write_speaker(folder / "its_c", 3, [("h", "e")], ["foo"])
    write_speaker(folder / "its_tied", 4, [("x", "y")], added, head=False)
    write_speaker(folder / "its_half", 5, [("x", "y")], added, dtype=torch.bfloat16)
    return folder


@pytest.fixture(autouse=True)
def among_speakers(inside: None, speakers: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(speakers)
    yield


@pytest.fixture(scope="module")
def mergekit_folder(mergekit: object) -> Callable[[str, Path], None]:
    """As `mergekit`, with the tokenizer written."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    def merge(text: str, out: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = MergeConfiguration.model_validate(yaml.safe_load(text))
            run_merge(config, str(out), MergeOptions(write_model_card=False, quiet=True))

    return merge


@pytest.mark.parametrize("name", list(RECIPES))
def test_rows_by_token(mergekit_folder, tmp_path: Path, name: str):
    text = RECIPES[name]
    merge_to_folder(prepared(text), tmp_path / "ours")
    mergekit_folder(text, tmp_path / "theirs")
    mine, theirs = Speaker(tmp_path / "ours"), Speaker(tmp_path / "theirs")
    assert mine.ids.keys() == theirs.ids.keys()
    assert mine.weights.keys() == theirs.weights.keys()
    rows = json.loads((tmp_path / "theirs/config.json").read_text())["vocab_size"]
    assert json.loads((tmp_path / "ours/config.json").read_text())["vocab_size"] == rows
    for tensor, exact in theirs.weights.items():
        assert mine.weights[tensor].shape == exact.shape
        if not tensor.startswith(("lm_head", "model.embed")):
            assert torch.allclose(mine.weights[tensor], exact, rtol=1e-5, atol=1e-6)
            continue
        for token in theirs.ids:
            assert torch.allclose(mine.row(token, tensor), theirs.row(token, tensor), rtol=1e-5, atol=2e-6), token
        spare = mine.weights[tensor][len(mine.ids) :]
        assert torch.allclose(spare, exact[len(mine.ids) :], rtol=1e-5, atol=2e-6)


def test_definitions_of_added_tokens(mergekit_folder, tmp_path: Path):
    text = RECIPES["union of three"]
    merge_to_folder(prepared(text), tmp_path / "ours")
    mergekit_folder(text, tmp_path / "theirs")
    mine, theirs = (
        {e.pop("content"): e for e in json.loads((tmp_path / f"{x}/tokenizer.json").read_text())["added_tokens"]}
        for x in ("ours", "theirs")
    )
    for entry in (*mine.values(), *theirs.values()):
        del entry["id"]
    assert mine == theirs
