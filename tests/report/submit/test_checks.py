"""Each check fails on the mistake it is for, and on no other."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergeopt.report.submit.checks import Check, Subject, checks


def looked(folder: Path) -> dict[str, Check]:
    return {each.what: each for each in checks(Subject.open(folder))}


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def change_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_merge_passes(merged: Path) -> None:
    found = looked(merged)
    assert {what: each.state for what, each in found.items()} == {
        "config": "ok", "shapes": "ok", "tokenizer": "ok", "dtype": "warn", "size": "ok", "weights": "ok",
        "hashes": "ok", "licence": "warn", "card": "warn", "chat template": "ok", "files": "ok",
    }  # fmt: skip
    assert all(each.remedy for each in found.values() if each.state != "ok")


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("damage", "what", "state", "said"),
    [
        (lambda f: change_weights(f, lambda w: w[NORM].fill_(float("nan"))), "weights", "fail", f"infinity in {NORM}"),
        (lambda f: change_weights(f, lambda w: w[NORM].add_(1)), "hashes", "fail", f"1 tensors are not.*{NORM}"),
        (lambda f: change_weights(f, lambda w: w.pop(NORM)), "shapes", "fail", "the weights lack the model's tensor"),
        (lambda f: change_json(f / "config.json", intermediate_size=48), "shapes", "fail", r"by config.json \[32, 48"),
        (lambda f: change_json(f / "config.json", vocab_size=200), "tokenizer", "fail", "no embedding"),
        (lambda f: change_json(f / "config.json", model_type="nonsense"), "config", "fail", "cannot read config.json"),
        (lambda f: change_json(f / "config.json", dtype="float16"), "dtype", "warn", "config.json says float16"),
        (lambda f: change_weights(f, lambda w: w.update({NORM: w[NORM].double()})), "dtype", "fail", "float64"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer", "fail", "cannot load it"),
        (lambda f: (f / "generation_config.json").write_text("{}"), "side files", "warn", "generation_config"),
        (lambda f: (f / "recipe.lock.json").unlink(), "hashes", "warn", "nobody can verify"),
        (lambda f: (f / "README.md").unlink(), "card", "fail", "no README.md"),
        (lambda f: (f / "README.md").write_text("# hand-made"), "card", "fail", "front matter"),
        (lambda f: (f / "README.md").write_text("---\ntags: [a]\n---\nfrom zoo/upper"), "card", "fail", "zoo/upper"),
        (lambda f: (f / "modeling_x.py").write_text(""), "files", "warn", "modeling_x.py"),
    ],
)
def test_what_goes_wrong(damage: Callable[[Path], Any], what: str, state: str, said: str, merged: Path) -> None:
    damage(merged)
    found = looked(merged)[what]
    assert found.state == state and re.search(said, f"{found.text} {found.remedy}"), found
    assert found.remedy


def test_a_card_that_is_complete(merged: Path) -> None:
    card = merged / "README.md"
    front = (
        "license: mit\nbase_model: [org/a]\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [merge]"
    )
    card.write_text(f"---\n{front}\n---\n# Mine\n")
    found = looked(merged)
    assert (found["card"].state, found["licence"].state, found["licence"].text) == ("ok", "ok", "mit")


def test_a_chat_template_that_the_parents_have(work: Path, merged: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "zoo", tmp_path / "parents" / "zoo")
    (tmp_path / "parents" / "zoo" / "sort" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    lock = merged / "recipe.lock.json"
    lock.write_text(lock.read_text().replace("zoo/sort", str(tmp_path / "parents" / "zoo" / "sort")))
    found = looked(merged)["chat template"]
    assert found.state == "warn" and "local:sort has one" in found.text
    (merged / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert looked(merged)["chat template"].state == "ok"
