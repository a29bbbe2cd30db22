"""Dropping deltas at random: masks with an address, and the factors that restore the L1 norms.

Finding a mask takes a hash, or a sort, of every element; what measuring found is kept where it is small enough.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks, Narrow
from mergeopt.methods.fused import Bytes, MaskBytes, masked_factors
from mergeopt.methods.kernels import PackedMask
from mergeopt.methods.steps import as_number, deltas, norm_factors

_KEPT = 1 << 29  # elements whose masks are kept: 64 MiB

Mask = Callable[[int, Tensor, int], Tensor | None]
"""(source, δ [b] or |δ|, start) of a chunk to the mask [b] of what is kept; None keeps all."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The factors [n] that restore the L1 norms, and the masks of the sources, where they are kept."""

    factors: Tensor
    masks: Sequence[PackedMask | None] = ()

    def kept(self, sources: Sequence[Tensor], base: Tensor, start: int, mask: Mask) -> Tensor:
        """δ_i · mask_i [n, b]."""
        result = deltas(sources, base)
        for i, delta in enumerate(result):
            known = self.masks[i] if self.masks else None
            found = mask(i, delta, start) if known is None else torch.from_numpy(known.get(start, delta.numel()))
            if found is not None:
                delta.mul_(as_number(found, delta))
        return result

    def filled(self, mask: MaskBytes) -> MaskBytes:
        """The same of the stored bits."""

        def fill(i: int, narrow: Narrow, out: Bytes) -> None:
            known = self.masks[i] if self.masks else None
            if known is None:
                mask(i, narrow, out)
            else:
                out[:] = known.get(narrow.start, narrow.length)

        return fill


def dropped(
    chunks: Chunks,
    density: Tensor,
    rescale: bool,
    mask: Mask,
    filled: MaskBytes | None = None,
    *,
    remember: bool = True,
) -> Drop:
    """Looks over the tensor where a norm is to be restored; factors of 1 without `rescale` or where all is kept.

    Args:
        chunks: The tensor.
        density: [n].
        rescale: Whether a norm is to be restored.
        mask: What is kept.
        filled: The same of the stored bits; None for whoever does not look at those.
        remember: Whether the stored bits' masks are worth their memory.
    """
    n = density.numel()
    if not rescale or all(d >= 1 for d in density.tolist()):
        return Drop(torch.ones(n, dtype=torch.float64))
    remember &= n * chunks.numel <= _KEPT
    if chunks.narrow is not None and filled is not None:
        return _dropped_narrowly(chunks, n, filled, remember)
    masks: list[PackedMask | None] = [None] * n

    def prune(magnitudes: Tensor, start: int) -> None:
        for i, x in enumerate(magnitudes):
            found = mask(i, x, start)
            if found is None:
                continue
            if remember and x.device.type == "cpu":  # elsewhere finding it costs less than moving it
                known = masks[i] = masks[i] or PackedMask(chunks.numel)
                known.put(start, found.numpy())
            x.mul_(as_number(found, x))

    return Drop(norm_factors(chunks, prune), masks)


def _dropped_narrowly(chunks: Chunks, n: int, mask: MaskBytes, remember: bool) -> Drop:
    if not remember:
        return Drop(masked_factors(chunks, mask, n))
    masks = [PackedMask(chunks.numel) for _ in range(n)]

    def recorded(i: int, narrow: Narrow, out: Bytes) -> None:
        mask(i, narrow, out)
        masks[i].put(narrow.start, out)

    return Drop(masked_factors(chunks, recorded, n), masks)
