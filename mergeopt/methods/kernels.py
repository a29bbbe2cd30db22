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


def sorted_rows(keys: Tensor) -> Tensor:
    """Each row of integers [rows, n] in ascending order."""
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values
    return torch.from_numpy(np.sort(keys.numpy(), axis=1))


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
        """Elements [start, start + length)."""
        first = start % 8
        bits = np.unpackbits(self._bytes[start // 8 : -(-(start + length) // 8)], count=first + length)
        return torch.from_numpy(bits[first:]).view(torch.bool)
