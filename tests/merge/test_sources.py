import json
from pathlib import Path

import pytest
import torch

from mergeopt.errors import InputError
from mergeopt.merge.layout import Input
from mergeopt.merge.sources import FileSource, ResidentSource, facts, open_models, opened_readers, resident_bytes
from mergeopt.recipe.recipe import ModelRef
from tests.conftest import llama_weights, read_weights, write_adapter, write_model

A, B = ModelRef("a"), ModelRef("b")
UP = "model.layers.1.mlp.up_proj.weight"


def test_models_are_found_here_and_beside_the_recipe(models: Path):
    write_model(models / "sub/d", llama_weights())
    opened = open_models([A, ModelRef("d")], models / "sub")
    assert [c.folder.name for c in opened.values()] == ["a", "d"] and opened[A].name == "a"
    with pytest.raises(InputError, match=r"'./nowhere'"):
        open_models([ModelRef("./nowhere")], None)


LORA = {"model.layers.1.mlp.up_proj": (24, 16)}


def test_an_adapter_is_a_view_of_its_model(models: Path):
    added = write_adapter(models / "lora", LORA, lora_alpha=6)
    base, ref = ModelRef("base"), ModelRef("base", lora="lora")
    opened = open_models([base, ref], None)
    assert opened[ref].name == "base+lora" and opened[ref].notices == ()
    assert opened[ref].files == (
        models / "base/model.safetensors",
        models / "lora/adapter_config.json",
        models / "lora/adapter_model.safetensors",
    )
    with opened[ref].reader() as reader:
        torch.testing.assert_close(reader.tensor(UP), read_weights(models / "base")[UP] + 3 * added[UP])


def test_an_adapter_alone_stands_on_the_base_or_on_what_it_names(models: Path):
    write_adapter(models / "lora", LORA, base_model_name_or_path="a")
    ref = ModelRef("lora")
    alone, on_base = (open_models([ref], None, base)[ref] for base in (None, ModelRef("base")))
    assert alone.folder == models / "a" and on_base.folder == models / "base"
    assert alone.notices == ("'lora' is an adapter: read on 'a', as 'a+lora' would be",)
    assert on_base.notices[0] == "lora: the adapter was trained on 'a', not on 'base'"
    assert open_models([ref], None, ref)[ref].folder == models / "a"
    write_adapter(models / "lost", LORA, base_model_name_or_path="./no")
    with pytest.raises(InputError, match=r"'lost' is an adapter, and its model: no such folder.*<its model>\+lost"):
        open_models([ModelRef("lost")], None)
    write_adapter(models / "nameless", LORA, base_model_name_or_path=None)
    with pytest.raises(InputError, match="'nameless' is an adapter that names no model"):
        open_models([ModelRef("nameless")], None)


def test_an_architecture_is_overridden(models: Path):
    ref = ModelRef("a", architecture="MistralForCausalLM")
    opened = open_models([A, ref], None)
    assert opened[ref].config["architectures"] == ["MistralForCausalLM"]
    assert opened[A].config["architectures"] == ["LlamaForCausalLM"]


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


def test_adapters_share_the_memory_of_their_model(models: Path):
    base, refs = ModelRef("base"), [ModelRef("base", lora=f"lora{i}") for i in range(2)]
    for ref in refs:
        write_adapter(models / str(ref.lora), LORA, lora_alpha=3)
    checkpoints = open_models([base, *refs], None)
    items = [Input(ref, name) for ref in (base, *refs) for name in checkpoints[base].tensors]
    resident = ResidentSource.load(items, checkpoints, torch.device("cpu"))
    assert len({tensor.data_ptr() for tensor in resident.tensors.values()}) == len(checkpoints[base].tensors)
    assert resident_bytes(checkpoints) == checkpoints[base].nbytes + 2 * 4 * 2 * (24 + 16)
    with opened_readers(checkpoints) as readers:
        files = FileSource(readers, checkpoints)
        for item in items:
            size = checkpoints[base].tensors[item.tensor].numel
            for start, stop in ((0, size), (1, size), (5, min(90, size))):
                assert torch.equal(files.chunk(item, start, stop), resident.chunk(item, start, stop))
    assert torch.equal(resident.chunk(Input(base, UP), 0, 9), read_weights(models / "base")[UP].view(-1)[:9])
