"""Comparing and sorting bits: numpy's vector kernels on a CPU, torch's elsewhere, the same result.

On a CPU torch makes a mask, and sorts rows, several times slower than numpy does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Turns torch's own threads off, and gives how many there were.

    A chunk is too small to share out: on busy cores, meeting after every pass over it costs many times the pass.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def below(bits: Tensor, limit: int) -> Tensor:
    """Mask of the int32 elements below `limit`; any shape."""
    if bits.device.type != "cpu":
        return bits < limit
    if limit >= 1 << 31:  # numpy wants a limit of the elements' type
        return torch.ones_like(bits, dtype=torch.bool)
    return torch.from_numpy(np.less(bits.numpy(), np.int32(limit)))


def at_least(bits: Tensor, other: Tensor | int) -> Tensor:
    """Mask of the elements at or above `other`: integers of the same type, or one int32."""
    if bits.device.type != "cpu":
        return bits >= other
    return torch.from_numpy(np.greater_equal(bits.numpy(), other.numpy() if isinstance(other, Tensor) else other))


def taken(rows: Tensor, places: Tensor) -> Tensor:
    """Elements of each row [rows, n] at places given as floats, rounded down."""
    begins = torch.arange(0, rows.numel(), rows.shape[1], dtype=torch.int32, device=rows.device)
    return rows.view(-1).index_select(0, places.int().add_(begins.view(-1, 1)).view(-1)).view(rows.shape)


def signs(x: Tensor) -> Tensor:
    """±1 by the sign bit, float32 or float64; on a CPU in the memory of `x`, which is lost."""
    if x.device.type != "cpu":
        return torch.copysign(torch.ones_like(x), x)
    if x.dtype == torch.float64:
        _signs(x.numpy().view(np.uint64), np.uint64(1 << 63), np.float64(1).view(np.uint64))
    else:
        _signs(x.numpy().view(np.uint32), np.uint32(1 << 31), np.float32(1).view(np.uint32))
    return x


def _signs(bits: npt.NDArray[Any], sign: Any, one: Any) -> None:
    np.bitwise_and(bits, sign, out=bits)
    np.bitwise_or(bits, one, out=bits)


def sorted_rows(keys: Tensor) -> Tensor:
    """Each row of integers [rows, n] in ascending order."""
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values
    return torch.from_numpy(np.sort(keys.numpy(), axis=1))


class PackedMask:
    """A mask of `numel` elements in an eighth of their number of bytes, on the CPU."""

    def __init__(self, numel: int) -> None:
        self._bytes = np.zeros(-(-numel // 8), dtype=np.uint8)

    def put(self, start: int, bits: "npt.NDArray[np.bool_] | npt.NDArray[np.uint8]") -> None:
        """Sets the elements from `start` on, which must be unset yet."""
        if start % 8:
            bits = np.concatenate([np.zeros(start % 8, dtype=bits.dtype), bits])
        found = np.packbits(bits)
        self._bytes[start // 8 : start // 8 + len(found)] |= found

    def get(self, start: int, length: int) -> npt.NDArray[np.uint8]:
        """Elements [start, start + length)."""
        first = start % 8
        bits = np.unpackbits(self._bytes[start // 8 : -(-(start + length) // 8)], count=first + length)
        return bits[first:]
