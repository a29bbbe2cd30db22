import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.reader import TensorReader
from mergeopt.errors import MergeoptError

MakeModel = Callable[..., Path]


@pytest.mark.parametrize("shards", [1, 2])
def test_whole_tensors(make_model: MakeModel, tensors: dict[str, Tensor], shards: int) -> None:
    tensors["flags"] = torch.tensor([True, False])
    tensors["scalar"] = torch.tensor(3, dtype=torch.int64)
    tensors["empty"] = torch.empty(0, 4)
    tensors["eight"] = torch.arange(4.0).to(torch.float8_e4m3fn)
    checkpoint = Checkpoint.open(make_model(tensors=tensors, shards=shards))
    with TensorReader(checkpoint) as reader:
        for name, tensor in tensors.items():
            read = reader.tensor(name)
            assert read.dtype == tensor.dtype and read.shape == tensor.shape
            assert torch.equal(read.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_a_read_that_the_system_cuts_short_goes_on(
    make_model: MakeModel, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda handle, buffers, offset: whole(handle, [buffers[0][:7]], offset))
    with TensorReader(Checkpoint.open(make_model())) as reader:
        assert all(torch.equal(reader.tensor(name), tensor) for name, tensor in tensors.items())


def test_blocks_from_many_threads(make_model: MakeModel) -> None:
    tensors = {f"t{i}": torch.arange(10_000) + i for i in range(4)}
    checkpoint = Checkpoint.open(make_model(tensors=tensors, shards=2))

    def block(job: tuple[str, int]) -> bool:
        name, start = job
        out = torch.empty(100, dtype=torch.int64)
        reader.read_into(name, start, out)
        return torch.equal(out, tensors[name][start : start + 100])

    jobs = [(name, start) for start in range(0, 10_000, 100) for name in tensors]
    with TensorReader(checkpoint) as reader, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(block, jobs))


def test_a_slice_of_a_larger_buffer(make_model: MakeModel, tensors: dict[str, Tensor]) -> None:
    out = torch.full((10,), 9.0)
    with TensorReader(Checkpoint.open(make_model())) as reader:
        reader.read_into("model.embed_tokens.weight", 5, out[2:6])
    assert out.tolist() == [9.0] * 2 + tensors["model.embed_tokens.weight"].flatten()[5:9].tolist() + [9.0] * 4


@pytest.mark.parametrize(
    ("start", "out"),
    [
        (0, torch.empty(4, dtype=torch.bfloat16)),
        (0, torch.empty(2, 2)),
        (0, torch.empty(8)[::2]),
        (25, torch.empty(4)),
        (-1, torch.empty(4)),
    ],
)
def test_a_buffer_that_does_not_fit(make_model: MakeModel, start: int, out: Tensor) -> None:
    with TensorReader(Checkpoint.open(make_model())) as reader, pytest.raises(ValueError, match=r"embed_tokens"):
        reader.read_into("model.embed_tokens.weight", start, out)


def test_a_file_cut_short_while_open(make_model: MakeModel) -> None:
    checkpoint = Checkpoint.open(make_model())
    names = list(checkpoint.tensors)
    with TensorReader(checkpoint) as reader:
        reader.tensor(names[0])
        os.truncate(checkpoint.files[0], checkpoint.tensors[names[-1]].offset + 1)
        with pytest.raises(MergeoptError, match="changed while reading"):
            reader.tensor(names[-1])


def test_a_file_replaced_or_gone_before_it_is_opened(make_model: MakeModel) -> None:
    checkpoint = Checkpoint.open(make_model())
    with checkpoint.files[0].open("ab") as file:
        file.write(b"more")
    with TensorReader(checkpoint) as reader, pytest.raises(MergeoptError, match="changed since its header"):
        reader.tensor("model.embed_tokens.weight")
    checkpoint.files[0].unlink()
    with TensorReader(checkpoint) as reader, pytest.raises(MergeoptError, match="No such file"):
        reader.tensor("model.embed_tokens.weight")


def open_files() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_one_descriptor_per_file_and_none_left(make_model: MakeModel) -> None:
    checkpoint = Checkpoint.open(make_model(shards=2))
    before = open_files()
    with TensorReader(checkpoint) as reader:
        for name in checkpoint.tensors:
            reader.tensor(name)
        assert len(open_files() - before) == 2
    assert open_files() == before
