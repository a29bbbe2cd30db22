"""DARE: drop deltas at random and rescale the rest (Yu et al. 2024, arXiv 2311.03099)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks, total
from mergeopt.methods.draws import Draws
from mergeopt.methods.method import merge_method
from mergeopt.methods.steps import deltas, divided, elected_sum, keep, rescale_factors, weighted_sum


def _factors(chunks: Chunks, density: Tensor, rescale: bool, draws: Draws) -> Tensor:
    """Per source [n]: what restores the L1 norm of the delta after dropping; 1 without `rescale` or at density 1."""
    n = density.numel()
    if not rescale or all(d >= 1 for d in density.tolist()):
        return torch.ones(n, dtype=torch.float64)
    before = [torch.zeros((), dtype=torch.float64) for _ in range(n)]
    after = list(before)
    for chunk in chunks:
        assert chunk.base is not None
        for i, delta in enumerate(deltas(chunk.sources, chunk.base)):
            size = delta.abs()
            mask = draws.keep(i, chunk.start, delta, float(density[i]))
            before[i] = before[i] + total(size).cpu()
            after[i] = after[i] + total(keep(size, mask)).cpu()
    return rescale_factors(before, after)


def _dropped(
    sources: Sequence[Tensor], base: Tensor, density: Tensor, factors: Tensor, start: int, draws: Draws
) -> list[Tensor]:
    """δ_i · mask_i · factor_i with mask_i ~ Bernoulli(density_i) by address."""
    result = []
    for i, delta in enumerate(deltas(sources, base)):
        d = float(density[i])
        result.append(delta if d >= 1 else keep(delta, draws.keep(i, start, delta, d)) * factors[i])
    return result


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
    kept = _dropped(sources, base, density, whole, start, draws)
    scale = weight * lambda_
    if normalize and abs(float(weight.detach().sum())) >= 1e-8:
        scale = scale / weight.sum()
    return base + weighted_sum(kept, scale)


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
    kept = _dropped(sources, base, density, whole, start, draws)
    merged, divisor = elected_sum([delta * w for delta, w in zip(kept, weight, strict=True)], weight)
    if normalize:
        merged = divided(merged, divisor)
    return base + merged * lambda_
