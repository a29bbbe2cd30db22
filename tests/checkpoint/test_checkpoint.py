import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.errors import InputError

MakeModel = Callable[..., Path]
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "model.safetensors.index.json"
    document = json.loads(file.read_text())
    change(document["weight_map"])
    file.write_text(json.dumps(document))


def test_a_single_file(make_model: MakeModel, tensors: dict[str, Tensor]) -> None:
    folder = make_model()

    checkpoint = Checkpoint.open(folder, name="zoo/one")

    assert checkpoint.name == "zoo/one"
    assert checkpoint.config == {"num_hidden_layers": 2}
    assert checkpoint.files == (folder / "model.safetensors",)
    assert {n: t.shape for n, t in checkpoint.tensors.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    assert checkpoint.nbytes == sum(t.nbytes for t in tensors.values())
    assert checkpoint.shape.stacks == {"model.layers": 2}
    assert list(checkpoint.shape.tensors) == list(checkpoint.tensors)


def test_shards(make_model: MakeModel, tensors: dict[str, Tensor]) -> None:
    folder = make_model(shards=2)

    checkpoint = Checkpoint.open(folder)

    assert checkpoint.name == str(folder)
    assert [file.name for file in checkpoint.files] == list(SHARDS)
    assert checkpoint.tensors.keys() == tensors.keys()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../secret.safetensors", "not a .safetensors file of this folder"),
        ("/etc/passwd", "not a .safetensors file of this folder"),
        ("sub\\a.safetensors", "not a .safetensors file of this folder"),
        ("config.json", "not a .safetensors file of this folder"),
        ("a\n.safetensors", "not a .safetensors file of this folder"),
        (7, "not a .safetensors file of this folder"),
        ("model-00003-of-00003.safetensors", "shard model-00003-of-00003.safetensors is missing"),
        (SHARDS[1], "lists 'model.embed_tokens.weight' in .*; it is in model-00001"),
    ],
)
def test_an_index_that_points_elsewhere(make_model: MakeModel, name: object, message: str) -> None:
    folder = make_model(shards=2)
    edit_index(folder, lambda weight_map: weight_map.update({"model.embed_tokens.weight": name}))
    with pytest.raises(InputError, match=message):
        Checkpoint.open(folder)


def test_an_index_that_disagrees_with_the_headers(make_model: MakeModel) -> None:
    folder = make_model("more", shards=2)
    edit_index(folder, lambda weight_map: weight_map.update(ghost=SHARDS[0]))
    with pytest.raises(InputError, match=r"lists 'ghost' in model-00001-of-00002\.safetensors, which does not hold it"):
        Checkpoint.open(folder)

    folder = make_model("less", shards=2)
    edit_index(folder, lambda weight_map: weight_map.pop("model.layers.0.norm.weight"))
    with pytest.raises(InputError, match=r"does not list 'model.layers.0.norm.weight', which model-0000"):
        Checkpoint.open(folder)


def test_an_index_that_passes_over_a_shard(make_model: MakeModel) -> None:
    index = make_model(shards=3) / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"] = {n: f for n, f in data["weight_map"].items() if "00002-of" not in f}
    index.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"does not list model-00002-of-00003\.safetensors, which stands beside it"):
        Checkpoint.open(index.parent)
    (index.parent / "model-00002-of-00003.safetensors").rename(index.parent / "model-00002-of-00004.safetensors")
    Checkpoint.open(index.parent)  # of another series: somebody's leftover


def test_an_index_without_a_map(make_model: MakeModel) -> None:
    folder = make_model(shards=2)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="no weight_map"):
        Checkpoint.open(folder)


def test_a_tensor_in_two_shards(make_model: MakeModel, tensors: dict[str, Tensor]) -> None:
    folder = make_model(shards=2)
    save_file(dict(list(tensors.items())[:2]), folder / SHARDS[0])
    with pytest.raises(InputError, match=f"stands in both {SHARDS[0]} and {SHARDS[1]}"):
        Checkpoint.open(folder)


def test_a_single_file_beside_a_foreign_index(make_model: MakeModel) -> None:
    folder = make_model(shards=2)
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(InputError, match="which is the model"):
        Checkpoint.open(folder)


def test_links_out_of_the_folder_are_refused(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model()
    secret = tmp_path / "elsewhere.safetensors"
    (folder / "model.safetensors").rename(secret)
    (folder / "model.safetensors").symlink_to(secret)
    with pytest.raises(InputError, match="link out of the folder"):
        Checkpoint.open(folder)


def test_the_links_of_a_hub_cache_are_followed(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("hub/models--a--b/snapshots/c0ffee")
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    blobs.mkdir()
    (folder / "model.safetensors").rename(blobs / "abc")
    (folder / "model.safetensors").symlink_to(Path("../../blobs/abc"))
    assert len(Checkpoint.open(folder).tensors) == 5

    (tmp_path / "link").symlink_to(folder)
    assert len(Checkpoint.open(tmp_path / "link").tensors) == 5


def test_what_is_no_model_folder(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    with pytest.raises(InputError, match="no such folder"):
        Checkpoint.open(folder)
    folder.mkdir()
    with pytest.raises(InputError, match=r"no config\.json"):
        Checkpoint.open(folder)
    with pytest.raises(InputError, match="not a folder"):
        (tmp_path / "file").touch()
        Checkpoint.open(tmp_path / "file")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("README.md", "no weights"),
        ("pytorch_model-00001-of-00002.bin", "weight files, but neither.*copy the index"),
        (SHARDS[0], r"neither model\.safetensors nor"),
        ("adapter_config.json", r"holds an adapter, not a model; .*<base>\+<adapter>"),
    ],
)
def test_a_folder_without_weights_we_can_read(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).touch()
    with pytest.raises(InputError, match=message):
        Checkpoint.open(tmp_path)


def test_a_broken_config_names_the_file(make_model: MakeModel) -> None:
    folder = make_model()
    (folder / "config.json").write_text('{"a": 1,}')
    with pytest.raises(InputError, match=r"config.json: not valid JSON"):
        Checkpoint.open(folder)
