"""Model breadcrumbs: neither the smallest deltas nor the outliers (Davari & Belilovsky 2023, arXiv 2312.06795)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks
from mergeopt.methods.cutoff import Cutoff, cutoffs
from mergeopt.methods.method import merge_method
from mergeopt.methods.steps import as_number, deltas, elected_mean, norm_factors, task_sum


@dataclass(frozen=True, slots=True)
class _Band:
    """Per source the cutoffs of all that is large enough, and of the outliers among it; factors [n] as in TIES."""

    outer: list[Cutoff]
    inner: list[Cutoff]
    factors: Tensor

    def prune(self, deltas: Tensor, start: int) -> None:
        """Leaves of each δ_i [b] of [n, b], or its magnitudes, its band, in place."""
        for x, outer, inner in zip(deltas, self.outer, self.inner, strict=True):
            x.mul_(as_number(outer.keep(x, start) & ~inner.keep(x, start), x))


def _band(chunks: Chunks, density: Tensor, gamma: Tensor, rescale: bool) -> _Band:
    counts = [_counts(chunks.numel, d, g) for d, g in zip(density.tolist(), gamma.tolist(), strict=True)]
    n = len(counts)
    found = cutoffs(chunks, [outer for outer, _ in counts] + [inner for _, inner in counts], of=[*range(n), *range(n)])
    band = _Band(found[:n], found[n:], torch.ones(n, dtype=torch.float64))
    return _Band(band.outer, band.inner, norm_factors(chunks, band.prune)) if rescale else band


def _counts(numel: int, density: float, gamma: float) -> tuple[int, int]:
    """How many of the largest magnitudes to consider, and how many of those to leave out again."""
    if density >= 1:
        return numel, 0
    kept, top = max(0, int(density * numel)), int(gamma * numel)
    outer = numel - max(0, numel - kept - top)  # where the rest is not enough, fewer outliers go
    return outer, max(0, outer - kept)


@merge_method(measure=_band)
def breadcrumbs(
    sources: Sequence[Tensor],
    base: Tensor,
    weight: Tensor,
    density: Tensor | float = 1.0,
    gamma: Tensor | float = 0.01,
    *,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: float = 1.0,
    whole: _Band,
    start: int,
) -> Tensor:
    """Task arithmetic on deltas without their smallest and largest elements: base + λ Σ w_i mask_i δ_i.

    Of each tensor of each δ_i the ⌊gamma_i · numel⌋ largest magnitudes go, and of the rest the ⌊density_i · numel⌋
    largest stay (fewer outliers go where that leaves too few); all stay at density 1. `normalize` divides by Σ w_i,
    `rescale` restores the delta's L1 norm.
    """
    kept = deltas(sources, base)
    whole.prune(kept, start)
    return base + task_sum(kept, weight, whole.factors, normalize, lambda_)


@merge_method(measure=_band)
def breadcrumbs_ties(
    sources: Sequence[Tensor],
    base: Tensor,
    weight: Tensor,
    density: Tensor | float = 1.0,
    gamma: Tensor | float = 0.01,
    *,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: float = 1.0,
    whole: _Band,
    start: int,
) -> Tensor:
    """TIES' sign election on deltas without their smallest and largest elements.

    Masks as in breadcrumbs, then s = sign(Σ w_i δ_i) per element and base + λ Σ over the agreeing of w_i δ_i, divided
    by the sum of their w_i where `normalize`.
    """
    kept = deltas(sources, base)
    whole.prune(kept, start)
    return base + elected_mean(kept, weight, whole.factors, normalize, lambda_)
