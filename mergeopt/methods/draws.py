"""Random masks with an address.

A mask element is a pure function of (recipe seed, output tensor, ordinal of the source, element index): a counter-based
integer hash, the same bits on every device, for any chunking, order, thread count or resume. Raising a density only
adds elements, so neighbouring densities are compared on common random numbers.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

_SPAN = 1 << 24  # elements that share a key


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one output tensor."""

    seed: int
    tensor: str

    def keep(self, ordinal: int, start: int, like: Tensor, density: float) -> Tensor:
        """Mask [b]: each element kept with probability `density`, independently.

        Args:
            ordinal: Position among the non-base sources.
            start: Index in the whole tensor of the first element; any.
            like: A tensor [b] that gives length and device.
            density: Share to keep; at least 1 keeps all.
        """
        length = like.numel()
        if density >= 1:
            return torch.ones(length, dtype=torch.bool, device=like.device)
        limit = int(density * (1 << 32)) - (1 << 31)
        parts = []
        for first in range(start - start % _SPAN, start + length, _SPAN):
            low, high = max(start, first), min(start + length, first + _SPAN)
            bits = _hash(
                torch.arange(low - first, high - first, dtype=torch.int32, device=like.device),
                *self._key(ordinal, first),
            )
            parts.append(bits < limit)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _key(self, ordinal: int, first: int) -> tuple[int, int]:
        """Two signed 32-bit words for one span of one source."""
        text = f"{self.seed}\0{self.tensor}\0{ordinal}\0{first // _SPAN}".encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        return int.from_bytes(digest[:4], "little", signed=True), int.from_bytes(digest[4:], "little", signed=True)


def _hash(counter: Tensor, key0: int, key1: int) -> Tensor:
    """Uniform int32 from int32 counters: two rounds of a multiply–xorshift mixer, keyed before each.

    The mixer is "lowbias32" (C. Wellons, hash-prospector, public domain); int32 products wrap on every device.
    Overwrites `counter`: fresh memory for each step would cost more than the step.
    """
    scratch = torch.empty_like(counter)
    x = _mix(counter.bitwise_xor_(key0), scratch)
    x += key1
    return _mix(x, scratch)


def _mix(x: Tensor, scratch: Tensor) -> Tensor:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - (1 << 32)), (16, 1)):
        torch.bitwise_right_shift(x, shift, out=scratch)
        x ^= scratch.bitwise_and_((1 << (32 - shift)) - 1)  # a logical shift, of signed numbers
        if factor != 1:
            x *= factor
    return x
