"""Whatever blocks arrive in whatever order, the file holds the tensor; whole pages may go past the page cache."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mergeopt.checkpoint import staging
from mergeopt.checkpoint.gather import PAGE, PIECE, Gather, direct_span
from mergeopt.checkpoint.sink import OutputTensor
from mergeopt.checkpoint.writer import CheckpointWriter


def gathered(offset: int, data: bytes, cuts: list[tuple[int, int]]) -> tuple[bytes, list[int]]:
    """The bytes as the pieces put them together, and the pieces' lengths."""
    gather, out, sizes = Gather(offset, len(data)), bytearray(len(data)), []
    for begin, end in cuts:
        for place, piece in gather.add(begin, memoryview(data)[begin:end]):
            out[place : place + len(piece)] = piece
            sizes.append(len(piece))
    for place, piece in gather.rest():
        out[place : place + len(piece)] = piece
        sizes.append(len(piece))
    return bytes(out), sizes


@pytest.mark.parametrize("offset", [0, 8, PAGE - 3, 5 * PAGE])
def test_blocks_in_order_become_large_pieces(offset: int) -> None:
    data = random.Random(0).randbytes(2 * PIECE + 12345)
    cuts = [(i, min(i + 100_000, len(data))) for i in range(0, len(data), 100_000)]
    out, sizes = gathered(offset, data, cuts)
    assert out == data
    assert len(sizes) == 3
    assert (offset + sizes[0]) % PAGE == 0  # what follows begins on a page


def test_blocks_out_of_order_are_given_out_as_they_come() -> None:
    data = random.Random(1).randbytes(PIECE + 999)
    cuts = [(i, min(i + 300_000, len(data))) for i in range(0, len(data), 300_000)]
    random.Random(2).shuffle(cuts)
    assert gathered(16, data, cuts)[0] == data


def test_only_whole_pages_at_matching_addresses_are_direct() -> None:
    gather = Gather(100, PIECE + 5000)
    (piece,) = [piece for _, piece in gather.add(0, memoryview(bytes(PIECE)))]
    begin, end = direct_span(piece, 100)
    assert begin == PAGE - 100
    assert (end - begin) % PAGE == 0
    assert end == len(piece)
    assert direct_span(piece, 101) == (0, 0)
    assert direct_span(memoryview(bytes(2 * PAGE)), 0) == (0, 0)  # memory that cannot be aligned by us


@pytest.mark.parametrize("direct", [True, False])
def test_two_threads_share_a_page_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    monkeypatch.setattr(staging, "_DIRECT", 1 if direct else 1 << 60)
    numels = [3, PIECE // 4 + 77, 5, PIECE // 2 + 1, 2 * PIECE // 4 + 13, 1]
    tensors = {f"t{i}": torch.randn(n, generator=torch.Generator().manual_seed(i)) for i, n in enumerate(numels)}
    with CheckpointWriter(tmp_path, [OutputTensor(n, tuple(t.shape), "float32") for n, t in tensors.items()]) as writer:

        def write(name: str) -> None:
            for start in range(0, tensors[name].numel(), 50_000):
                writer.write(name, start, tensors[name][start : start + 50_000].contiguous())

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, tensors))
        writer.commit()
    back = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
