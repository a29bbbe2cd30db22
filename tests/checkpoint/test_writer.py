import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.reader import TensorReader
from mergeopt.checkpoint.sidefiles import copy_side_files, output_config, write_config
from mergeopt.checkpoint.sink import OutputTensor
from mergeopt.checkpoint.writer import CheckpointWriter
from mergeopt.errors import InputError, MergeoptError

MakeModel = Callable[..., Path]


def outputs(tensors: dict[str, Tensor]) -> list[OutputTensor]:
    return [OutputTensor(n, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in tensors.items()]


def blocks(tensors: dict[str, Tensor], size: int) -> Iterable[tuple[str, int, Tensor]]:
    for name, tensor in tensors.items():
        flat = tensor.reshape(-1)
        for start in range(0, max(flat.numel(), 1), size):
            yield name, start, flat[start : start + size]


def weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def digest(tensor: Tensor) -> str:
    return xxhash.xxh3_128(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("order", ["forward", "backward", "threads"])
def test_what_is_written_is_read_back_by_safetensors(tmp_path: Path, tensors: dict[str, Tensor], order: str) -> None:
    tensors |= {"scalar": torch.tensor(3), "empty": torch.empty(0, 4), "flags": torch.tensor([True, False])}
    jobs = list(blocks(tensors, 3))
    with CheckpointWriter(tmp_path, outputs(tensors), max_shard_bytes=60, metadata={"made": "here"}) as writer:
        if order == "threads":
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda job: writer.write(*job), jobs))
        else:
            for job in jobs if order == "forward" else reversed(jobs):
                writer.write(*job)
        writer.commit()

    written = weights(tmp_path)
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[n], t) and written[n].dtype == t.dtype for n, t in tensors.items())
    assert writer.digests() == {name: digest(tensor) for name, tensor in tensors.items()}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    assert names(tmp_path) == set(index["weight_map"].values()) | {"model.safetensors.index.json"}
    with safe_open(tmp_path / index["weight_map"]["scalar"], "pt") as file:
        assert file.metadata() == {"format": "pt", "made": "here"}


def test_a_write_that_the_system_cuts_short_goes_on(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, offset: whole(handle, data[:7], offset))
    with CheckpointWriter(tmp_path, outputs(tensors)) as writer:
        for job in blocks(tensors, 100):
            writer.write(*job)
        writer.commit()
    assert all(torch.equal(weights(tmp_path)[name], tensor) for name, tensor in tensors.items())


@pytest.mark.slow
def test_transformers_loads_a_copy_in_shards(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=40, pad_token_id=0
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "donor")
    donor = Checkpoint.open(tmp_path / "donor")
    wanted = [OutputTensor(t.name, t.shape, t.dtype) for t in donor.tensors.values()]

    with TensorReader(donor) as reader, CheckpointWriter(tmp_path / "copy", wanted, max_shard_bytes=4000) as writer:
        for tensor in wanted:
            writer.write(tensor.name, 0, reader.tensor(tensor.name).view(-1))
        writer.commit()
    copy_side_files(donor, tmp_path / "copy")
    write_config(tmp_path / "copy", output_config(donor.config, dtype="float32"))

    copy = AutoModelForCausalLM.from_pretrained(tmp_path / "copy").state_dict()
    assert len(list((tmp_path / "copy").glob("*.safetensors"))) > 3
    assert all(torch.equal(copy[name], tensor) for name, tensor in model.state_dict().items())


def test_nothing_is_visible_before_commit(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with CheckpointWriter(tmp_path / "new" / "out", outputs(tensors)) as writer:
        for job in blocks(tensors, 100):
            writer.write(*job)
        assert not [name for name in names(tmp_path / "new" / "out") if not name.startswith(".")]
        writer.commit()
        assert names(tmp_path / "new" / "out") == {"model.safetensors"}


@pytest.mark.parametrize("before", [1, 3])
@pytest.mark.parametrize("limit", [10**9, 60])
def test_an_earlier_model_is_replaced_only_at_commit(
    make_model: MakeModel, tensors: dict[str, Tensor], before: int, limit: int
) -> None:
    folder = make_model(
        tensors={"old": torch.zeros(3), "older": torch.zeros(1), "oldest": torch.ones(1)}, shards=before
    )
    earlier = names(folder)

    with CheckpointWriter(folder, outputs(tensors), max_shard_bytes=limit) as writer:
        for job in blocks(tensors, 100):
            writer.write(*job)
    assert names(folder) == earlier  # left without commit

    with CheckpointWriter(folder, outputs(tensors), max_shard_bytes=limit) as writer:
        for job in blocks(tensors, 100):
            writer.write(*job)
        assert weights(folder).keys() == {"old", "older", "oldest"}
        writer.commit()
    assert weights(folder).keys() == tensors.keys()
    assert (folder / "model.safetensors.index.json").exists() == (limit == 60)
    assert (folder / "model.safetensors").exists() == (limit != 60)
    assert (folder / "config.json").exists()


def test_an_exception_leaves_nothing_not_even_the_folder(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(KeyboardInterrupt), CheckpointWriter(tmp_path / "a" / "b", outputs(tensors)) as writer:
        writer.write("model.embed_tokens.weight", 0, torch.ones(28))
        raise KeyboardInterrupt
    assert names(tmp_path) == set()


def test_incomplete_or_repeated_blocks_are_refused_at_commit(tmp_path: Path) -> None:
    wanted = [OutputTensor("a", (4,), "float32")]
    for jobs, message in [
        ([(0, 2)], "8 of 16 bytes"),
        ([(0, 1), (2, 2)], "missing at byte 4"),
        ([(0, 3), (2, 2)], "overlap at byte 12"),
    ]:
        with pytest.raises(ValueError, match=message), CheckpointWriter(tmp_path, wanted) as writer:
            for start, count in jobs:
                writer.write("a", start, torch.ones(count))
            writer.commit()
        assert names(tmp_path) == set()


def test_data_that_does_not_fit(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, [OutputTensor("a", (2, 2), "float32")]) as writer:
        for start, data in [
            (0, torch.ones(4).double()),
            (0, torch.ones(2, 2)),
            (1, torch.ones(4)),
            (0, torch.ones(8)[::2]),
        ]:
            with pytest.raises(ValueError, match=r"^a: "):
                writer.write("a", start, data)
        with pytest.raises(ValueError, match="after commit"):
            writer.digests()
    with pytest.raises(ValueError, match="same name"):
        CheckpointWriter(tmp_path, [OutputTensor("a", (1,), "float32")] * 2)


def test_a_model_larger_than_the_disk_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    huge = [OutputTensor("a", (10**15,), "float32")]
    with pytest.raises(MergeoptError, match=r"needs 4000000\.00 GB, the disk has \d+\.\d+ [GM]B free"):
        CheckpointWriter(tmp_path / "out", huge)
    assert names(tmp_path) == set()


def test_a_disk_that_fills_up_later(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        pytest.raises(MergeoptError, match="No space left on device while writing; the model needs") as caught,
        CheckpointWriter(tmp_path / "out", outputs(tensors)) as writer,
    ):
        monkeypatch.setattr(os, "pwrite", full)
        writer.write("model.embed_tokens.weight", 0, torch.ones(28))
    assert not isinstance(caught.value, InputError)
    assert names(tmp_path) == set()


def test_a_file_system_that_refuses_direct_writes_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergeopt.checkpoint.staging._DIRECT", 0)
    write, direct = os.pwrite, [0]

    def faulty(file: int, data: Any, offset: int) -> int:
        if fcntl.fcntl(file, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0):
            direct[0] += 1
            if direct[0] % 2:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return write(file, data, offset)

    monkeypatch.setattr(os, "pwrite", faulty)
    sizes = (2_200_001, 7, 3_100_003, 5_000)  # elements: neighbours share pages, two are longer than a piece
    given = {f"t{i}": torch.arange(n, dtype=torch.int16) for i, n in enumerate(sizes)}
    with CheckpointWriter(tmp_path, outputs(given)) as writer:

        def fill(name: str) -> None:
            for start in range(0, given[name].numel(), 65_536):
                writer.write(name, start, given[name][start : start + 65_536])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(fill, given))
        writer.commit()
    read = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in given.items())


def test_a_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written to"):
        CheckpointWriter(tmp_path / "file", [])

    def refused(*_: Any, **__: Any) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.mkdtemp", refused)  # the tests may run as root, whom no mode stops
    with pytest.raises(InputError, match="cannot be written to: Permission denied"):
        CheckpointWriter(tmp_path / "out", [])
    assert names(tmp_path) == {"file"}
