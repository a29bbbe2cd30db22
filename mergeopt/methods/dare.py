"""DARE: drop deltas at random and rescale the rest (Yu et al. 2024, arXiv 2311.03099)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks
from mergeopt.methods.draws import Draws
from mergeopt.methods.method import merge_method
from mergeopt.methods.steps import deltas, elected_mean, keep, norm_factors, task_sum


def _factors(chunks: Chunks, density: Tensor, rescale: bool, draws: Draws) -> Tensor:
    """Per source [n]: what restores the L1 norm of the delta after dropping; 1 without `rescale` or at density 1."""
    if not rescale or all(d >= 1 for d in density.tolist()):
        return torch.ones(density.numel(), dtype=torch.float64)
    return norm_factors(chunks, lambda sources, base, start: _dropped(sources, base, density, start, draws))


def _dropped(sources: Sequence[Tensor], base: Tensor, density: Tensor, start: int, draws: Draws) -> list[Tensor]:
    """δ_i · mask_i with mask_i ~ Bernoulli(density_i) by address."""
    pairs = enumerate(zip(deltas(sources, base), density.tolist(), strict=True))
    return [x if d >= 1 else keep(x, draws.keep(i, start, x, d)) for i, (x, d) in pairs]


@merge_method(measure=_factors)
def dare_linear(
    sources: Sequence[Tensor],
    base: Tensor,
    weight: Tensor,
    density: Tensor | float = 1.0,
    *,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
    whole: Tensor,
    start: int,
    draws: Draws,
) -> Tensor:
    """Task arithmetic on randomly dropped deltas: base + λ Σ w_i drop(δ_i).

    Each element of δ_i is kept with probability density_i; `rescale` restores the delta's L1 norm, as mergekit does
    (in expectation the paper's 1/density). `normalize` divides by Σ w_i.
    """
    assert isinstance(density, Tensor)
    return base + task_sum(_dropped(sources, base, density, start, draws), weight, whole, normalize, lambda_)


@merge_method(measure=_factors)
def dare_ties(
    sources: Sequence[Tensor],
    base: Tensor,
    weight: Tensor,
    density: Tensor | float = 1.0,
    *,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
    whole: Tensor,
    start: int,
    draws: Draws,
) -> Tensor:
    """TIES' sign election on randomly dropped deltas.

    drop as in DARE, then s = sign(Σ w_i δ_i) per element and base + λ Σ over the agreeing of w_i δ_i, divided by the
    sum of their w_i where `normalize`.
    """
    assert isinstance(density, Tensor)
    return base + elected_mean(_dropped(sources, base, density, start, draws), weight, whole, normalize, lambda_)
