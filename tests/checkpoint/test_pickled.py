"""Pickles, as `torch.save` writes them: read as data, by the same reader, and never run."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.pickled import read_pickle
from mergeopt.errors import InputError
from tests.checkpoint.conftest import MakeModel, two_layers


class Evil:
    def __reduce__(self) -> object:
        return os.mkdir, ("ran",)


def pickled(folder: Path, *, shards: int = 1, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 2, **config}))
    items = list(two_layers().items())
    if shards == 1:
        torch.save(dict(items), folder / "pytorch_model.bin")
        return folder
    weight_map = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        torch.save(dict(items[number::shards]), folder / file)
        weight_map |= dict.fromkeys((name for name, _ in items[number::shards]), file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_a_pickled_model_is_read_like_any_other(tmp_path: Path, shards: int) -> None:
    checkpoint = Checkpoint.open(pickled(tmp_path / "m", shards=shards), name="m")
    assert checkpoint.tensors.keys() == two_layers().keys() and len(checkpoint.files) == shards
    assert checkpoint.shape.layers == 2
    assert checkpoint.notices == ("m has no safetensors: its pickles are read, as data only",)
    with checkpoint.reader() as reader:
        for name, expected in two_layers().items():
            assert torch.equal(reader.tensor(name), expected)
            out = torch.empty(2, dtype=expected.dtype)
            reader.read_into(name, 1, out)
            assert torch.equal(out, expected.view(-1)[1:3])


def test_safetensors_are_preferred(make_model: MakeModel) -> None:
    folder = make_model()
    (folder / "pytorch_model.bin").write_bytes(b"never looked at")
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.files == (folder / "model.safetensors",) and checkpoint.notices == ()


@pytest.mark.parametrize("tied", [True, False])
def test_tied_tensors_are_read_once(tmp_path: Path, tied: bool) -> None:
    folder = pickled(tmp_path / "m", tie_word_embeddings=tied)
    weights = two_layers()
    torch.save(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}, folder / "pytorch_model.bin")
    checkpoint = Checkpoint.open(folder, name="m")
    assert ("lm_head.weight" in checkpoint.tensors) is not tied
    assert ("m: tied tensors are read once (lm_head.weight is model.embed_tokens.weight)" in checkpoint.notices) is tied


def test_parameters_and_parts_of_a_larger_storage(tmp_path: Path) -> None:
    whole = torch.arange(10.0)
    torch.save({"part": whole[3:7], "parameter": torch.nn.Parameter(whole), "none": torch.empty(0)}, tmp_path / "x.bin")
    stored = read_pickle(tmp_path / "x.bin")
    assert stored["part"].offset == stored["parameter"].offset + 12
    assert (stored["part"].shape, stored["part"].nbytes, stored["none"].nbytes) == ((4,), 16, 0)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "x.bin").open("wb") as file:
        torch.save({"a": Evil()}, file) if zipped else pickle.dump({"a": Evil()}, file)
    with pytest.raises(InputError) as caught:
        read_pickle(tmp_path / "x.bin")
    assert ("posix.mkdir" in str(caught.value)) is zipped and "\n" not in str(caught.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds a list, not named tensors"),
        ({}, "not named tensors"),
        ({"a": 1}, r"tensor 'a': is a int, not a dense tensor"),
        ({"a": {"b": torch.zeros(2)}}, r"tensor 'a': is a dict"),
        ({3: torch.zeros(2)}, "name must be printable text"),
        ({"a": torch.zeros(2, 3).t()}, "tensor 'a': is not stored row by row; load the model with transformers"),
        ({"a": torch.zeros(2, 3).to_sparse()}, "sparse_coo, not a dense tensor"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "'complex64' cannot be stored"),
    ],
)
def test_what_is_no_set_of_weights(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(InputError, match=message):
        read_pickle(tmp_path / "x.bin")


def test_old_and_broken_files(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    torch.save({"a": torch.zeros(2)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"torch's format before 1.6.*save_pretrained"):
        read_pickle(file)
    for data in (b"", b"junk" * 100, b"PK", b"PK" + b"\0" * 300):
        file.write_bytes(data)
        with pytest.raises(InputError):
            read_pickle(file)
    torch.save({"a": torch.zeros(2000)}, file)
    for size in range(0, file.stat().st_size, 397):
        file.write_bytes(file.read_bytes()[:size] if size else b"")
        with pytest.raises(InputError):
            read_pickle(file)
        torch.save({"a": torch.zeros(2000)}, file)
    with pytest.raises(InputError, match="cannot be read"):
        read_pickle(tmp_path / "none.bin")
