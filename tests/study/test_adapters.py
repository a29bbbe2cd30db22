"""Adapters as sources of a search: the specialists' changes at a low rank, on their base."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mergeopt.recipe.settings import resolve
from mergeopt.report.card.searched import model_card
from tests.conftest import read_weights
from tests.study.family import TASKS, hole, search_data
from tests.study.test_search import search

RANK = 8


def extract(model: Path, base: Path, folder: Path) -> Path:
    """A LoRA of the specialist's matrices, by their best approximation of this rank."""
    tuned, plain = read_weights(model), read_weights(base)
    factors = {}
    for name, weight in plain.items():
        if name.endswith("_proj.weight"):
            left, sigma, right = torch.linalg.svd((tuned[name] - weight).float(), full_matrices=False)
            module = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{module}.lora_A.weight"] = right[:RANK].contiguous()
            factors[f"{module}.lora_B.weight"] = (left[:, :RANK] * sigma[:RANK]).contiguous()
    folder.mkdir()
    save_file(factors, folder / "adapter_model.safetensors")
    targets = [f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")]
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "zoo/base"}))
    return folder


@pytest.fixture
def adapters(work: Path, tmp_path: Path) -> dict[str, str]:
    """``zoo/base+<folder>`` of each specialist."""
    found = {task: extract(work / "zoo" / task, work / "zoo/base", tmp_path / f"{task}-lora") for task in TASKS}
    return {task: f"zoo/base+{folder}" for task, folder in found.items()}


def over(adapters: dict[str, str], weight: Any) -> dict[str, Any]:
    models = [{"model": model, "parameters": {"weight": weight}} for model in adapters.values()]
    return {"merge_method": "task_arithmetic", "base_model": "zoo/base", "models": models, "dtype": "float32"}


@pytest.mark.parametrize("method", ["random", "gradient"])
def test_a_search_over_adapters(method: str, adapters: dict[str, str], tmp_path: Path) -> None:
    data = search_data(over(adapters, hole(0, 1.5, init=0.5)), method=method, trials=6)
    if method == "gradient":
        data["learn"] = {"steps": 4, "size": 8}
    outcome = search(data, tmp_path, write=True)
    values = [trial.value for trial in outcome.trials if trial.value is not None]
    assert len(set(values)) > 1
    recipe = outcome.found.winner.recipe
    if recipe.method == "task_arithmetic":
        name = "model.layers.0.mlp.up_proj.weight"
        merged, base = read_weights(outcome.out)[name], read_weights(Path("zoo/base"))[name]
        expected = base.clone()
        for source in recipe.slices[0].sources:
            lora = read_weights(Path(source.model.lora or ""))
            module = f"base_model.model.{name.removesuffix('.weight')}"
            weight = resolve(source.parameters["weight"], name, 0.0)
            expected += weight * (lora[f"{module}.lora_B.weight"] @ lora[f"{module}.lora_A.weight"])
        torch.testing.assert_close(merged, expected)
    card = model_card(outcome.found, outcome.job)
    assert "local:base+local:sort-lora" in card and str(tmp_path) not in card
