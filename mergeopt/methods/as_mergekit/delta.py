"""The task arithmetic family as mergekit computes it: sparsify, elect, add, all in the inputs' dtype.

Weights are rounded to that dtype. What is dropped at random is dropped in float32, or in bfloat16.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mergeopt.errors import InputError
from mergeopt.methods.as_mergekit.inputs import Inputs

Sparsifier = Callable[..., Tensor]
"""Takes a delta, the generator, `rescale`, and the source's `density` (below 1), `gamma` or `epsilon`."""


def merge_deltas(
    inputs: Inputs,
    *,
    sparsify: Sparsifier | None,
    elect: bool,
    weight: Sequence[float],
    normalize: bool,
    lambda_: float,
    rescale: bool = False,
    density: Sequence[float] = (),
    **own: Sequence[float],
) -> Tensor:
    """base + λ Σ w_i δ_i over all, or over those that agree with the sign of the sum where `elect`."""
    base, deltas = inputs.ground, inputs.deltas
    if sparsify is not None:
        for i, d in enumerate(density):
            if d < 1:
                more = {name: values[i] for name, values in own.items()}
                deltas[i] = sparsify(deltas[i], inputs.random, rescale, density=d, **more)
    w = torch.tensor(weight, dtype=base.dtype).view(-1, *[1] * base.ndim)
    weighted = torch.stack(deltas) * w
    if elect:
        majority = (weighted.sum(0) >= 0).to(base.dtype) * 2 - 1
        mask = weighted.sign() == majority
        merged, divisor = (weighted * mask).sum(0), (w * mask).sum(0)
        divisor = torch.where(divisor == 0, 1, divisor)
    else:
        merged, divisor = weighted.sum(0), w.sum(0)
        divisor = torch.where(divisor.abs() < 1e-8, 1, divisor)
    if normalize:
        merged = merged / divisor
    return base + (merged if lambda_ == 1 else merged * lambda_)


def magnitude(delta: Tensor, random: torch.Generator, rescale: bool, *, density: float) -> Tensor:
    """TIES: the largest."""
    if density <= 0:
        return torch.zeros_like(delta)
    return _ranked(delta, True, 0, max(1, int(density * delta.numel())), rescale)


def outliers(delta: Tensor, random: torch.Generator, rescale: bool, *, density: float, gamma: float) -> Tensor:
    """Breadcrumbs: the largest but for a share `gamma`, fewer where too few are left below."""
    numel = delta.numel()
    keep, top = int(density * numel), int(gamma * numel)
    return _ranked(delta, False, max(0, numel - keep - top), keep, rescale)


def bernoulli(delta: Tensor, random: torch.Generator, rescale: bool, *, density: float) -> Tensor:
    """DARE: any."""
    return _drawn(delta, torch.full_like(_single(delta), density), random, rescale)


def magprune(delta: Tensor, random: torch.Generator, rescale: bool, *, density: float, epsilon: float) -> Tensor:
    """DELLA: any, the more likely the larger in its row; a tensor of one axis is a row."""
    if density <= 0:
        return torch.zeros_like(delta)
    if not (density - epsilon > 0 and density + epsilon < 1):
        problem = f"density {density:g} and epsilon {epsilon:g} make no probabilities between 0 and 1"
        raise InputError(problem, remedy="keep epsilon < density < 1 - epsilon, or density 1")
    size = _single(delta).abs()
    size = size if size.ndim > 1 else size.view(1, -1)
    rank = size.argsort(dim=1).argsort(dim=1).to(size.dtype) + 1
    low, high = rank.amin(1, keepdim=True), rank.amax(1, keepdim=True)
    share = (density - epsilon) + (rank - low) / (high - low) * 2 * epsilon
    return _drawn(delta, share.view_as(delta), random, rescale)


def _single(delta: Tensor) -> Tensor:
    return delta if delta.dtype == torch.bfloat16 else delta.float()


def _ranked(delta: Tensor, descending: bool, first: int, count: int, rescale: bool) -> Tensor:
    """Ranks [first, first + count) of the magnitudes; which of equal ones come first is torch.argsort's choice."""
    order = torch.argsort(delta.abs().view(-1).float(), descending=descending)
    mask = torch.zeros_like(delta)
    mask.view(-1)[order[first : first + count]] = 1
    return _kept(delta, mask, rescale)


def _drawn(delta: Tensor, share: Tensor, random: torch.Generator, rescale: bool) -> Tensor:
    """Each element kept with the probability given."""
    return _kept(_single(delta), torch.bernoulli(share, generator=random), rescale).to(delta.dtype)


def _kept(delta: Tensor, mask: Tensor, rescale: bool) -> Tensor:
    """The masked delta, its L1 norm restored where `rescale`."""
    result = delta * mask
    if rescale:
        before, after = delta.abs().sum(), result.abs().sum()
        if before >= 1e-7 and after >= 1e-7:
            result = result * (before / after)
    return result
