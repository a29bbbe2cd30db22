"""Searching over models that speak different tokens: one vocabulary for all candidates, parents included."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergeopt.merge.folder import merge_to_folder
from mergeopt.merge.folder import prepare as plan
from mergeopt.merge.sources import open_models
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import read_document
from mergeopt.recipe.read import read_recipe
from mergeopt.study.evaluation import evaluate_models
from tests.study.family import hole, search_data, write_yaml
from tests.study.test_search import CPU, prepare, refusal, search

TURN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@pytest.fixture
def mixed(work: Path, tmp_path: Path) -> Path:
    """`sort` with two tokens more than the others, and a row for each of all its tokens."""
    folder = tmp_path / "models" / "sort"
    shutil.copytree(work / "zoo" / "sort", folder)
    document = json.loads((folder / "tokenizer.json").read_text())
    known = len(document["model"]["vocab"])
    document["added_tokens"] += [{"id": known + i, "content": f"<|{i}|>", **TURN} for i in range(2)]
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (weights,) = folder.glob("*.safetensors")
    tensors, random = load_file(weights), torch.Generator().manual_seed(0)
    config = json.loads((folder / "config.json").read_text())
    for name, tensor in tensors.items():
        if tensor.shape[0] == config["vocab_size"] and tensor.dim() == 2:
            tensors[name] = torch.cat([tensor[:known], torch.randn(2, tensor.shape[1], generator=random)])
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": known + 2}))
    save_file(tensors, weights, {"format": "pt"})
    return tmp_path


def mixed_recipe(**more: Any) -> dict[str, Any]:
    models = [{"model": name, "parameters": {"weight": hole()}} for name in ("zoo/upper", "models/sort")]
    return {"merge_method": "task_arithmetic", "base_model": "zoo/base", "models": models, "dtype": "float32", **more}


def test_a_search_over_two_vocabularies(mixed: Path):
    outcome = search(search_data(mixed_recipe(tokenizer_source="union"), trials=3), mixed, write=True)
    job, result = outcome.job, outcome.found.result
    size = len(job.suite.tokenizer)
    assert job.suite.tokenizer.convert_tokens_to_ids("<|1|>") == size - 1
    assert {c.config["vocab_size"] for c in job.checkpoints.values()} == {size}
    (upper, sort) = (c for c in job.contenders if c.kind == "parent")
    for contender in (upper, sort):
        assert contender.recipe.tokenizer is not None and len(contender.recipe.tokenizer.among) == 3
    # a parent that has every token scores as it does by itself; the others borrow rows, which take part in the softmax
    rows, _ = evaluate_models([str(outcome.out), str(mixed / "models/sort")], [], CPU)
    for task, cell in result.row("models/sort").evals.items():
        assert cell.value == pytest.approx(rows[1].evals[task].value, rel=1e-5)
    for task, cell in result.row(result.winner).evals.items():
        assert cell.value == pytest.approx(rows[0].evals[task].value, rel=1e-5)
    # what was scored is what is written, and what the written recipe makes again
    config = json.loads((outcome.out / "config.json").read_text())
    written = load_file(outcome.out / "model.safetensors")
    assert config["vocab_size"] == len(written["model.embed_tokens.weight"]) == size
    remade = read_recipe(read_document(outcome.out / "recipe.yaml"), SCHEMAS).recipe
    merge_to_folder(plan(remade, open_models(remade.named, mixed)), mixed / "again")
    assert (mixed / "again/model.safetensors").read_bytes() == (outcome.out / "model.safetensors").read_bytes()


def test_a_parent_may_win(mixed: Path):
    """Its recipe names the vocabulary that it was scored in."""
    job = prepare(search_data(mixed_recipe(tokenizer_source="union"), trials=1), mixed)
    for contender in job.contenders:
        made = plan(contender.recipe, job.opened)
        assert {len(job.suite.tokenizer)} == {c.config["vocab_size"] for c in made.checkpoints.values()}, contender.name


def test_vocabularies_that_differ_within_a_search_are_refused(mixed: Path):
    assert "tokenizer_source: union to merge token by token" in refusal(search_data(mixed_recipe()), mixed)
    chosen = mixed_recipe(tokenizer={"source": {"choice": ["union", "base"]}})
    assert "a search has one vocabulary" in refusal(search_data(chosen), mixed)
    other = {"merge_method": "linear", "models": [{"model": "zoo/upper"}], "parameters": {"weight": 1}}
    path = write_yaml(mixed / "other.yml", other | {"tokenizer_source": "base"})
    data = search_data(mixed_recipe(tokenizer_source="union"), compare=[str(path)])
    assert "has tokenizer source 'base', the search tokenizer source 'union'" in refusal(data, mixed)
    path = write_yaml(mixed / "more.yml", other | {"models": [{"model": "zoo/sort"}]})
    data = search_data(mixed_recipe(tokenizer_source="union"), compare=[str(path)])
    assert "list all models under tokenizer: among:" in refusal(data, mixed)
