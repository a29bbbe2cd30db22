"""TIES: trim, elect sign, merge what agrees (Yadav et al. 2023, arXiv 2306.01708)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks
from mergeopt.methods.cutoff import Cutoff, cutoffs
from mergeopt.methods.fused import Election, Terms
from mergeopt.methods.method import merge_method
from mergeopt.methods.steps import deltas, elected_mean, norm_factors


@dataclass(frozen=True, slots=True)
class _Trim:
    """The cutoff of each source, and the factor [n] that restores its L1 norm."""

    cutoffs: list[Cutoff]
    factors: Tensor

    def prune(self, deltas: Tensor, start: int) -> None:
        """Trims each δ_i [b] of [n, b], or its magnitudes, in place."""
        for delta, cut in zip(deltas, self.cutoffs, strict=True):
            cut.trim_(delta, start)


def _trim(chunks: Chunks, density: Tensor, rescale: bool) -> _Trim:
    kept = [0 if d <= 0 else max(1, int(d * chunks.numel)) for d in density.tolist()]
    trim = _Trim(cutoffs(chunks, kept), torch.ones(len(kept), dtype=torch.float64))
    return _Trim(trim.cutoffs, norm_factors(chunks, trim.prune)) if rescale else trim


def _terms(weight: Tensor, normalize: bool, lambda_: float, whole: _Trim) -> Terms:
    return Terms(weight * whole.factors, Election(weight, normalize, lambda_), cutoffs=whole.cutoffs)


@merge_method(measure=_trim, terms=_terms)
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
    kept = deltas(sources, base)
    whole.prune(kept, start)
    return base + elected_mean(kept, weight, whole.factors, normalize, lambda_)
