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


def packed(mask: Tensor) -> Tensor:
    """A mask [b] in an eighth of its memory: uint8 [⌈b / 8⌉], on the CPU."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy()))


def unpacked(bits: Tensor, length: int) -> Tensor:
    """The mask [length] that was packed."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=length)).view(torch.bool)
