"""TIES: trim, elect sign, merge what agrees (Yadav et al. 2023, arXiv 2306.01708)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks, Cutoff, cutoffs, total
from mergeopt.methods.method import merge_method
from mergeopt.methods.steps import deltas, divided, elected_sum, keep, rescale_factors


@dataclass(frozen=True, slots=True)
class _Trim:
    """The cutoff of each source, and the factor [n] that restores its L1 norm."""

    cutoffs: list[Cutoff]
    factors: Tensor


def _trim(chunks: Chunks, density: Tensor, rescale: bool) -> _Trim:
    kept = [0 if d <= 0 else max(1, int(d * chunks.numel)) for d in density.tolist()]
    cuts = cutoffs(chunks, kept)
    if not rescale:
        return _Trim(cuts, torch.ones(len(cuts), dtype=torch.float64))
    before = [torch.zeros((), dtype=torch.float64) for _ in cuts]
    after = list(before)
    for chunk in chunks:
        assert chunk.base is not None
        for i, delta in enumerate(deltas(chunk.sources, chunk.base)):
            before[i] = before[i] + total(delta.abs()).cpu()
            after[i] = after[i] + total(keep(delta.abs(), cuts[i].keep(delta, chunk.start))).cpu()
    return _Trim(cuts, rescale_factors(before, after))


@merge_method(measure=_trim)
def ties(
    sources: Sequence[Tensor],
    base: Tensor,
    weight: Tensor,
    density: Tensor | float = 1.0,
    *,
    normalize: bool = True,
    rescale: bool = False,
    lambda_: float = 1.0,
    whole: _Trim,
    start: int,
) -> Tensor:
    """Keeps the largest deltas, elects a sign per element, averages what agrees.

    1. trim: of each δ_i keep the ⌊density_i · numel⌋ largest magnitudes of the tensor (at least one);
    2. elect: s = sign(Σ w_i δ_i), zero as plus;
    3. merge: Σ over sign(w_i δ_i) = s of w_i δ_i, divided by Σ of their w_i where `normalize`; base + λ · that.
    """
    weighted = []
    for delta, cut, factor, w in zip(deltas(sources, base), whole.cutoffs, whole.factors, weight, strict=True):
        weighted.append(keep(delta, cut.keep(delta, start)) * factor * w)
    merged, divisor = elected_sum(weighted, weight)
    if normalize:
        merged = divided(merged, divisor)
    return base + merged * lambda_
