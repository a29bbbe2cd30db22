"""Comparing and sorting bits: numpy's vector kernels on a CPU, torch's elsewhere, the same result.

On a CPU torch makes a mask, and sorts rows, several times slower than numpy does.
"""

import numpy as np
import torch
from torch import Tensor


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


def signs_(x: Tensor) -> Tensor:
    """±1 by the sign bit, in place."""
    if x.device.type != "cpu" or x.dtype not in _ONE:
        return torch.copysign(torch.ones_like(x), x)
    bits = x.numpy().view(_ONE[x.dtype].dtype)
    bits &= _ONE[x.dtype].dtype.type(1 << bits.itemsize * 8 - 1)
    bits |= _ONE[x.dtype]
    return x


def sorted_rows(keys: Tensor) -> Tensor:
    """Each row of integers [rows, n] in ascending order."""
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values
    return torch.from_numpy(np.sort(keys.numpy(), axis=1))


_ONE = {torch.float32: np.float32(1).view(np.uint32), torch.float64: np.float64(1).view(np.uint64)}


class PackedMask:
    """A mask of `numel` elements in an eighth of their number of bytes, on the CPU."""

    def __init__(self, numel: int) -> None:
        self._bytes = np.zeros(-(-numel // 8), dtype=np.uint8)

    def put(self, start: int, mask: Tensor) -> None:
        """Sets the elements from `start` on, which must be unset yet."""
        bits = mask.cpu().numpy()
        if start % 8:
            bits = np.concatenate([np.zeros(start % 8, dtype=np.bool_), bits])
        found = np.packbits(bits)
        self._bytes[start // 8 : start // 8 + len(found)] |= found

    def get(self, start: int, length: int) -> Tensor:
        """Elements [start, start + length), as bytes."""
        first = start % 8
        bits = np.unpackbits(self._bytes[start // 8 : -(-(start + length) // 8)], count=first + length)
        return torch.from_numpy(bits[first:])
