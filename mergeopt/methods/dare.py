"""DARE: drop deltas at random and rescale the rest (Yu et al. 2024, arXiv 2311.03099)."""

from collections.abc import Sequence

from torch import Tensor

from mergeopt.methods.chunks import Chunks
from mergeopt.methods.draws import Draws
from mergeopt.methods.dropping import Drop, Mask, dropped
from mergeopt.methods.fused import Election, MaskBytes, Terms
from mergeopt.methods.method import merge_method
from mergeopt.methods.steps import elected_mean, task_shares, task_sum


def _mask(density: Tensor, draws: Draws) -> Mask:
    """mask_i ~ Bernoulli(density_i), by address."""
    shares = density.tolist()
    return lambda i, x, start: None if shares[i] >= 1 else draws.keep(i, start, x, shares[i])


def _bytes(density: Tensor, draws: Draws) -> MaskBytes:
    shares = density.tolist()
    return lambda i, narrow, out: draws.fill_kept(i, narrow.start, shares[i], out)


def _drop(chunks: Chunks, density: Tensor, rescale: bool, draws: Draws) -> Drop:
    return dropped(chunks, density, rescale, _mask(density, draws), _bytes(density, draws), remember=False)


def _sum(weight: Tensor, density: Tensor, normalize: bool, lambda_: float, whole: Drop, draws: Draws) -> Terms:
    scale = task_shares(weight, normalize=normalize, lambda_=lambda_) * whole.factors
    return Terms(scale, mask=_bytes(density, draws))


def _elected(weight: Tensor, density: Tensor, normalize: bool, lambda_: float, whole: Drop, draws: Draws) -> Terms:
    return Terms(weight * whole.factors, Election(weight, normalize, lambda_), mask=_bytes(density, draws))


@merge_method(measure=_drop, terms=_sum)
def dare_linear(
    sources: Sequence[Tensor],
    base: Tensor,
    weight: Tensor,
    density: Tensor | float = 1.0,
    *,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
    whole: Drop,
    start: int,
    draws: Draws,
) -> Tensor:
    """Task arithmetic on randomly dropped deltas: base + λ Σ w_i drop(δ_i).

    Each element of δ_i is kept with probability density_i; `rescale` restores the delta's L1 norm, as mergekit does
    (in expectation the paper's 1/density). `normalize` divides by Σ w_i.
    """
    assert isinstance(density, Tensor)
    kept = whole.kept(sources, base, start, _mask(density, draws))
    return base + task_sum(kept, weight, whole.factors, normalize, lambda_)


@merge_method(measure=_drop, terms=_elected)
def dare_ties(
    sources: Sequence[Tensor],
    base: Tensor,
    weight: Tensor,
    density: Tensor | float = 1.0,
    *,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
    whole: Drop,
    start: int,
    draws: Draws,
) -> Tensor:
    """TIES' sign election on randomly dropped deltas.

    drop as in DARE, then s = sign(Σ w_i δ_i) per element and base + λ Σ over the agreeing of w_i δ_i, divided by the
    sum of their w_i where `normalize`.
    """
    assert isinstance(density, Tensor)
    kept = whole.kept(sources, base, start, _mask(density, draws))
    return base + elected_mean(kept, weight, whole.factors, normalize, lambda_)
