"""Random masks with an address.

A mask element is a pure function of (recipe seed, output tensor, ordinal of the source, element index): a counter-based
integer hash, the same bits on every device, for any chunking, order, thread count or resume. Raising a density only
adds elements, so neighbouring densities are compared on common random numbers.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mergeopt.methods.kernels import below

_SPAN = 1 << 16  # elements that share a key
_FACTORS = (0x7FEB352D, 0x846CA68B)  # of "lowbias32" (C. Wellons, hash-prospector, public domain)


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
        if density >= 1:
            return torch.ones(like.numel(), dtype=torch.bool, device=like.device)
        return below(self.bits(ordinal, start, like), limit_of(density))

    def fill_kept(self, ordinal: int, start: int, density: float, out: npt.NDArray[np.uint8]) -> None:
        """`keep` on a CPU as bytes [b], compiled."""
        from mergeopt.methods import compiled

        if density >= 1:
            out.fill(1)
            return
        compiled.draw_below(*self._words(ordinal, start, len(out)), np.int64(limit_of(density)), out)

    def fill_bits(self, ordinal: int, start: int, out: npt.NDArray[np.int32]) -> None:
        """`bits` on a CPU, compiled."""
        from mergeopt.methods import compiled

        compiled.draw(*self._words(ordinal, start, len(out)), out)

    def _words(self, ordinal: int, start: int, length: int) -> tuple[Any, Any, Any, int]:
        """What the compiled hash takes: counters, the keys of all spans, factors, the place in the first span."""
        counters = _counters(_SPAN, torch.device("cpu")).numpy().view(np.uint32)
        spans = range(start - start % _SPAN, start + length, _SPAN)
        keys = np.array([self._key(ordinal, first) for first in spans], dtype=np.uint32)
        return counters, keys, np.array(_FACTORS, dtype=np.uint32), start % _SPAN

    def bits(self, ordinal: int, start: int, like: Tensor) -> Tensor:
        """Uniform int32 [b]; the upper bits are the better ones. Arguments as for `keep`."""
        length = like.numel()
        result = torch.empty(length, dtype=torch.int32, device=like.device)
        counters = _counters(_SPAN, like.device)
        for first in range(start - start % _SPAN, start + length, _SPAN):
            low, high = max(start, first), min(start + length, first + _SPAN)
            _hash(counters[low - first : high - first], *self._key(ordinal, first), result[low - start : high - start])
        return result

    def _key(self, ordinal: int, first: int) -> tuple[int, int]:
        """Two 32-bit words for one span of one source."""
        text = f"{self.seed}\0{self.tensor}\0{ordinal}\0{first // _SPAN}".encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def limit_of(share: float) -> int:
    """Draws below it are this share of all, which is cut to [0, 1]."""
    return int(min(max(share, 0.0), 1.0) * (1 << 32)) - (1 << 31)


@cache
def _counters(span: int, device: torch.device) -> Tensor:
    """int32 [span]: 0, 1, …, mixed once by lowbias32, whatever the key."""
    x = np.arange(span, dtype=np.uint32)
    for shift, factor in zip((16, 15, 16), (*_FACTORS, 1), strict=True):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    return torch.from_numpy(x.view(np.int32)).to(device)


def _hash(counters: Tensor, key0: int, key1: int, out: Tensor) -> None:
    """Uniform int32 [b] from mixed counters: ((c ^ key0)·A, its xorshift by 15, + key1)·B, modulo 2³².

    The counters are mixed already and only the upper bits count, so this is all that a second round of the mixer needs;
    a key before and one inside make spans, sources and tensors independent.
    """
    if out.device.type == "cpu":
        _hash_numpy(counters.numpy(), key0, key1, out.numpy())
    else:
        _hash_torch(counters, key0, key1, out)


def _hash_numpy(
    counters: "np.ndarray[tuple[int], np.dtype[np.int32]]",
    key0: int,
    key1: int,
    out: "np.ndarray[tuple[int], np.dtype[np.int32]]",
) -> None:
    x, shifted = out.view(np.uint32), np.empty(len(out), dtype=np.uint32)
    np.bitwise_xor(counters.view(np.uint32), np.uint32(key0), out=x)
    x *= np.uint32(_FACTORS[0])
    np.bitwise_xor(x, np.right_shift(x, np.uint32(15), out=shifted), out=x)
    x += np.uint32(key1)
    x *= np.uint32(_FACTORS[1])


def _hash_torch(counters: Tensor, key0: int, key1: int, out: Tensor) -> None:
    """The same with signed numbers, whose products and sums wrap on every device."""
    torch.bitwise_xor(counters, _signed(key0), out=out)
    out *= _signed(_FACTORS[0])
    out ^= (out >> 15) & ((1 << 17) - 1)  # a logical shift
    out += _signed(key1)
    out *= _signed(_FACTORS[1])


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word
