"""The small steps that named methods are made of.

Each takes and gives tensors of one chunk, [b] per source, and is differentiable in the coefficients. What
counts is the number of passes over a chunk: each costs a sixth of a nanosecond per element in a core's cache, twice
that beyond, and a meeting with the other threads at the interpreter's lock.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks, totals
from mergeopt.methods.kernels import signs

Prune = Callable[[Tensor, int], None]
"""(|δ| [n, b], start) of a chunk: makes pruned elements 0, in place."""


def deltas(sources: Sequence[Tensor], base: Tensor) -> Tensor:
    """δ_i = source_i − base: new memory [n, b]."""
    if any(x.requires_grad for x in (*sources, base)):
        return torch.stack([source - base for source in sources])
    result = base.new_empty((len(sources), *base.shape))
    for source, row in zip(sources, result.unbind(), strict=True):
        torch.sub(source, base, out=row)
    return result


def weighted_sum(tensors: Sequence[Tensor] | Tensor, weight: Tensor) -> Tensor:
    """Σ_i w_i x_i, added in order of i; product and sum rounded apart, so that no device fuses them differently."""
    if isinstance(tensors, Tensor):
        return _summed(tensors * _column(weight, tensors))
    shares = weight.unbind() if weight.requires_grad else weight.tolist()
    result = tensors[0] * shares[0]
    for tensor, w in zip(tensors[1:], shares[1:], strict=True):
        result += tensor * w
    return result


def keep(tensor: Tensor, mask: Tensor) -> Tensor:
    """The tensor where the mask is set, else 0 (NaN stays: a broken source must show)."""
    return tensor * as_number(mask, tensor)


def as_number(mask: Tensor, like: Tensor) -> Tensor:
    """1 where the mask is set, else 0."""
    if mask.dtype == torch.bool:  # as bytes, which torch widens six times as fast; torch.where is slower still
        mask = mask.view(torch.uint8)
    return mask.to(like.dtype)


def task_sum(kept: Tensor, weight: Tensor, factors: Tensor, normalize: bool, lambda_: Tensor | float) -> Tensor:
    """λ Σ w_i f_i δ_i, divided by Σ w_i where `normalize` (and |Σ w_i| ≥ 1e-8).

    Args:
        kept: δ [n, b], pruned elements zero.
        weight: w [n].
        factors: f [n], what restores the norm of δ_i after pruning.
        normalize: Whether weights are shares.
        lambda_: 0-D.
    """
    scale = task_shares(weight, normalize=normalize, lambda_=lambda_)
    return weighted_sum(kept, scale * factors.to(scale))


def task_shares(weight: Tensor, *, normalize: bool, lambda_: Tensor | float) -> Tensor:
    """λ w_i, divided by Σ w_i where `normalize` (and |Σ w_i| ≥ 1e-8): [n]."""
    scale = weight * lambda_
    if normalize and abs(float(weight.detach().sum())) >= 1e-8:
        scale = scale / weight.sum()
    return scale


def elected_mean(kept: Tensor, weight: Tensor, factors: Tensor, normalize: bool, lambda_: Tensor | float) -> Tensor:
    """λ Σ w_i f_i δ_i over what agrees in sign with Σ of all, divided by Σ of their w_i where `normalize`.

    TIES' election, element by element: a sum of zero counts as plus, pruned elements never agree. Arguments as for
    `task_sum`.
    """
    along = kept * _column(weight * factors.to(weight), kept)
    elected = signs(_summed(along.detach()))
    along.mul_(elected).clamp_min_(0)
    merged = _summed(along).mul_(elected)
    if normalize:
        divisor = _summed_weights(along, weight)
        least = float(weight.detach().min())
        # where all weights are positive the divisor is 0 only where nothing agrees, and there so is the sum
        merged = merged / divisor.clamp_min_(least) if least > 0 else divided(merged, divisor)
    return merged if _is_one(lambda_) else merged * lambda_


def _column(weight: Tensor, like: Tensor) -> Tensor:
    return weight.to(like).view(-1, *[1] * (like.dim() - 1))


def _summed(rows: Tensor) -> Tensor:
    """Σ_i x_i [b], new memory, added in order of i."""
    first, *others = rows.unbind()
    result = first + others[0] if others else first.clone()
    for row in others[1:]:
        result += row
    return result


def _is_one(number: Tensor | float) -> bool:
    """Whether multiplying by it changes nothing, neither numbers nor gradients."""
    return not (isinstance(number, Tensor) and number.requires_grad) and float(number) == 1


def _summed_weights(along: Tensor, weight: Tensor) -> Tensor:
    """Σ w_i over the agreeing i, where |w_i δ_i| [n, b] is above 0."""
    agreeing = along.detach().sign()
    if weight.requires_grad:
        return weighted_sum(agreeing, weight)
    rows = agreeing.unbind()
    result, shares = rows[0], weight.tolist()
    result.mul_(shares[0])
    for mask, w in zip(rows[1:], shares[1:], strict=True):
        result.add_(mask, alpha=w)  # the product is exact: no matter whether it is fused with the sum
    return result


def divided(merged: Tensor, divisor: Tensor) -> Tensor:
    """merged / divisor, and merged where the divisor is 0."""
    zero = torch.empty_like(divisor, requires_grad=False)
    return merged / (divisor + torch.eq(divisor.detach(), 0, out=zero))


def norm_factors(chunks: Chunks, prune: Prune) -> Tensor:
    """Σ|δ_i| of the whole tensor / of what pruning leaves [n], float64: restores L1 norms; 1 where one is < 1e-7."""
    sums = []
    for chunk in chunks:
        assert chunk.base is not None
        magnitudes = deltas(chunk.sources, chunk.base).abs_()
        whole = totals(magnitudes)
        prune(magnitudes, chunk.start)
        sums.append(torch.stack([whole, totals(magnitudes)]).cpu())
    found = torch.zeros(2, 0) if not sums else sum(sums[1:], sums[0])
    before, after = found.unbind()
    return restoring(before, after)


def restoring(before: Tensor, after: Tensor) -> Tensor:
    """What restores L1 norms [n]: before / after, and 1 where one is below 1e-7."""
    return torch.where((before < 1e-7) | (after < 1e-7), 1.0, before / after)
