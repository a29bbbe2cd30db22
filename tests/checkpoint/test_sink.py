"""Hashing and comparing output tensors without writing them."""

import pytest
import torch
import xxhash
from torch import Tensor

from mergeopt.checkpoint.sink import Comparer, Distance, Hasher, OutputTensor, distance

WANTED = [OutputTensor("a", (2, 3), "float32"), OutputTensor("b", (4,), "bfloat16")]


def test_the_hash_is_that_of_the_bytes() -> None:
    a, b = torch.arange(6.0), torch.arange(4).bfloat16()
    hasher = Hasher(WANTED)
    hasher.write("a", 0, a[:2])
    hasher.write("b", 0, b)
    hasher.write("a", 2, a[2:])
    assert hasher.digests() == {
        name: xxhash.xxh3_128(t.view(torch.uint8).numpy().tobytes()).hexdigest() for name, t in (("a", a), ("b", b))
    }


def test_blocks_come_in_order_and_whole() -> None:
    hasher = Hasher(WANTED)
    with pytest.raises(ValueError, match="elements from 2 on, but 0 come next"):
        hasher.write("a", 2, torch.ones(2))
    with pytest.raises(ValueError, match="a: data must be 1-D contiguous float32"):
        hasher.write("a", 0, torch.ones(2).half())
    hasher.write("a", 0, torch.ones(2))
    with pytest.raises(ValueError, match="2 of 6 elements written"):
        hasher.digests()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_distance_in_numbers_that_can_be_represented(dtype: torch.dtype) -> None:
    one = torch.ones(5, dtype=dtype)
    up = torch.nextafter(one, one + 1)
    other = torch.stack([one[0], up[0], torch.nextafter(up, one + 1)[0], one[0], one[0]])
    assert distance(one, one) == Distance(5, 0, 0.0, 0)
    assert distance(one, other) == Distance(5, 2, float(other[2] - 1), 2)
    tiny = torch.nextafter(torch.zeros(1, dtype=dtype), one[:1])
    assert distance(-tiny, tiny).ulp == 2
    assert distance(torch.tensor([-0.0], dtype=dtype), torch.tensor([0.0], dtype=dtype)) == Distance(1, 1, 0.0, 0)
    assert distance(one, one * torch.nan) == Distance(5, 5, None, None)


def test_distance_of_what_is_no_float() -> None:
    assert distance(torch.tensor([True, False]), torch.tensor([True, True])) == Distance(2, 1, None, None)
    assert distance(torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3])) == Distance(3, 0, 0.0, 0)


class Memory:
    """A reader over one tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self.held = tensor

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *_: object) -> None: ...

    def read_into(self, name: str, start: int, out: Tensor) -> None:
        out.copy_(self.held[start : start + out.numel()])

    def tensor(self, name: str) -> Tensor:
        return self.held


def test_a_comparison_goes_on_over_blocks() -> None:
    a = torch.arange(6.0)
    comparer = Comparer(WANTED[:1], Memory(a + torch.tensor([0, 0.5, 0, 0, 0, 0.25])))
    comparer.write("a", 3, a[3:])
    comparer.write("a", 0, a[:3])
    found = comparer.found["a"]
    assert (found.elements, found.different, found.largest) == (6, 2, 0.5)
