"""The small steps that named methods are made of.

Each takes and gives tensors of one chunk, [b] per source, and is differentiable in the coefficients. Chunks fit a
core's cache, where one pass over one costs a sixth of a nanosecond per element: what counts is the number of passes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks, total

Pruned = Callable[[Sequence[Tensor], Tensor, int], Sequence[Tensor]]
"""(sources, base, start) of a chunk to its δ_i, pruned elements zero."""


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
    if mask.dtype == torch.bool:  # as bytes, which torch widens six times as fast; torch.where is slower still
        mask = mask.view(torch.uint8).to(tensor.dtype)
    return tensor * mask


def task_sum(
    kept: Sequence[Tensor], weight: Tensor, factors: Tensor, normalize: bool, lambda_: Tensor | float
) -> Tensor:
    """λ Σ w_i f_i δ_i, divided by Σ w_i where `normalize` (and |Σ w_i| ≥ 1e-8).

    Args:
        kept: δ_i, pruned elements zero.
        weight: w [n].
        factors: f [n], what restores the norm of δ_i after pruning.
        normalize: Whether weights are shares.
        lambda_: 0-D.
    """
    scale = weight * lambda_
    if normalize and abs(float(weight.detach().sum())) >= 1e-8:
        scale = scale / weight.sum()
    return weighted_sum(kept, scale * factors.to(scale))


def elected_mean(
    kept: Sequence[Tensor], weight: Tensor, factors: Tensor, normalize: bool, lambda_: Tensor | float
) -> Tensor:
    """λ Σ w_i f_i δ_i over what agrees in sign with Σ of all, divided by Σ of their w_i where `normalize`.

    Arguments as for `task_sum`.
    """
    scale = weight * factors.to(weight)
    weighted = [delta * s for delta, s in zip(kept, scale, strict=True)]
    if normalize:
        return divided(*elected_sum(weighted, weight)) * lambda_
    elected = _elected(weighted)
    along = [_along(x, elected) for x in weighted]
    return sum(along[1:], along[0]) * elected * lambda_


def elected_sum(weighted: Sequence[Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
    """TIES' election: keep, element by element, only what agrees with the sign of the sum (zero counts as plus).

    Args:
        weighted: w_i δ_i, pruned elements zero.
        weight: w [n].

    Returns:
        Σ over the agreeing i of w_i δ_i, and of w_i; pruned elements never agree.
    """
    elected = _elected(weighted)
    along = [_along(x, elected) for x in weighted]
    return sum(along[1:], along[0]) * elected, _summed_weights([x.detach().sign() for x in along], weight)


def _summed_weights(agreeing: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Σ w_i over the agreeing i, whose masks are 0 or 1."""
    if weight.requires_grad:
        return weighted_sum(agreeing, weight)
    result = agreeing[0] * weight[0]
    for mask, w in zip(agreeing[1:], weight.tolist()[1:], strict=True):
        result.add_(mask, alpha=w)  # the product is exact: no matter whether it is fused with the sum
    return result


def _elected(weighted: Sequence[Tensor]) -> Tensor:
    """The sign of the sum, ±1."""
    total = sum(weighted[1:], weighted[0]).detach()
    return torch.copysign(total.new_ones(()), total)


def _along(x: Tensor, elected: Tensor) -> Tensor:
    """|x| where its sign is the elected one, else 0."""
    return (x * elected).clamp_min(0)


def divided(merged: Tensor, divisor: Tensor) -> Tensor:
    """merged / divisor, and merged where the divisor is 0."""
    zero = torch.empty_like(divisor, requires_grad=False)
    return merged / (divisor + torch.eq(divisor.detach(), 0, out=zero))


def norm_factors(chunks: Chunks, pruned: Pruned) -> Tensor:
    """Σ|δ_i| / Σ|δ_i · mask_i| over the tensor [n], float64: restores the L1 norms; 1 where a sum is below 1e-7."""
    sums = []
    for chunk in chunks:
        assert chunk.base is not None
        pairs = zip(deltas(chunk.sources, chunk.base), pruned(chunk.sources, chunk.base, chunk.start), strict=True)
        sums.append(torch.stack([total(x.abs()) for pair in pairs for x in pair]).cpu())
    found = torch.zeros(0) if not sums else sum(sums[1:], sums[0])
    before, after = found.view(-1, 2).unbind(1)
    return torch.where((before < 1e-7) | (after < 1e-7), 1.0, before / after)
