"""Tiny model folders, written by safetensors itself: what we read must be what others write."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

MakeModel = Callable[..., Path]


def two_layers() -> dict[str, Tensor]:
    """A model of two layers in three dtypes."""
    random = torch.Generator().manual_seed(0)
    tensors = {"model.embed_tokens.weight": torch.randn(7, 4, generator=random)}
    for layer in range(2):
        tensors[f"model.layers.{layer}.mlp.up.weight"] = torch.randn(5, 4, generator=random).bfloat16()
        tensors[f"model.layers.{layer}.norm.weight"] = torch.randn(4, generator=random).half()
    return tensors


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return two_layers()


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """``make_model(name, tensors, config=…, shards=n)``: a model folder; `shards` > 1 deals the tensors out in turn."""

    def make(
        name: str = "model",
        tensors: Mapping[str, Tensor] | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        shards: int = 1,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config or {"num_hidden_layers": 2}))
        items = list((tensors or two_layers()).items())
        if shards == 1:
            save_file(dict(items), folder / "model.safetensors")
            return folder
        weight_map = {}
        for number in range(shards):
            file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            save_file(dict(items[number::shards]), folder / file)
            weight_map |= dict.fromkeys((name for name, _ in items[number::shards]), file)
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    return make
