import json
from pathlib import Path

import pytest
import torch

from mergeopt.errors import InputError
from mergeopt.merge.layout import Input
from mergeopt.merge.sources import FileSource, ResidentSource, facts, open_models, opened_readers
from mergeopt.recipe.recipe import ModelRef
from tests.conftest import llama_weights, read_weights, write_model

A, B = ModelRef("a"), ModelRef("b")
UP = "model.layers.1.mlp.up_proj.weight"


def test_models_are_found_here_and_beside_the_recipe(models: Path):
    write_model(models / "sub/d", llama_weights())
    opened = open_models([A, ModelRef("d")], models / "sub")
    assert [c.folder.name for c in opened.values()] == ["a", "d"] and opened[A].name == "a"
    with pytest.raises(InputError, match=r"'./nowhere'"):
        open_models([ModelRef("./nowhere")], None)


def test_an_adapter_is_refused(models: Path):
    with pytest.raises(InputError, match=r"'a\+lora' names an adapter; merge the adapter into its model first"):
        open_models([ModelRef("a", lora="lora")], None)


@pytest.mark.parametrize(
    "config, tied",
    [
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False}, False),
        ({}, True),
        ({"text_config": {"tie_word_embeddings": False}}, False),
    ],
)
def test_whether_the_head_is_tied(models: Path, config: dict, tied: bool):
    (models / "a/config.json").write_text(json.dumps({"num_hidden_layers": 2, **config}))
    assert facts(open_models([A], None))[A].tied is tied


def test_files_and_memory_give_the_same_elements(models: Path):
    checkpoints = open_models([A, B], None)
    items = [Input(A, UP), Input(B, UP)]
    resident = ResidentSource.load(items, checkpoints, torch.device("cpu"))
    with opened_readers(checkpoints) as readers:
        files = FileSource(readers, checkpoints)
        for item in items:
            expected = read_weights(models / item.model.path)[UP].flatten()[5:90]
            assert torch.equal(files.chunk(item, 5, 90), expected)
            assert torch.equal(resident.chunk(item, 5, 90), expected)
        assert torch.equal(files.chunk(items[0], 5, 90), resident.chunk(items[0], 5, 90))  # buffers differ per model
