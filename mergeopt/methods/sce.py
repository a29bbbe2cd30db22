"""SCE: select by variance, calculate weights, erase minorities (Wan et al. 2024, arXiv 2408.07990)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunk, Chunks, source_deltas, total
from mergeopt.methods.cutoff import EVERYTHING, Cutoff, cutoffs
from mergeopt.methods.method import merge_method
from mergeopt.methods.steps import deltas, keep


@dataclass(frozen=True, slots=True)
class _Selection:
    """The cutoff of the variance, and each source's share [n] of the mean square that it keeps."""

    cutoff: Cutoff
    shares: Tensor


def _variance(x: Sequence[Tensor]) -> Tensor:
    """Population variance per element [b]; exactly 0 where all are equal."""
    apart = [(y - x[0]).double() for y in x[1:]]
    mean = sum(apart, torch.zeros_like(x[0]).double()) / len(x)
    spread = mean * mean + sum((y - mean) ** 2 for y in apart)
    return (spread / len(x)).float()


def _selection(chunks: Chunks, select_topk: Tensor) -> _Selection:
    def variance(chunk: Chunk) -> list[Tensor]:
        return [_variance(source_deltas(chunk))]

    cutoff = EVERYTHING
    if float(select_topk) < 1:
        varying = sum(int(torch.count_nonzero(variance(chunk)[0])) for chunk in chunks)
        (cutoff,) = cutoffs(chunks, [int(float(select_topk) * varying)], variance, "variance")
    squares: list[Tensor] = []
    for chunk in chunks:
        chosen = _selected(source_deltas(chunk), cutoff, chunk.start)
        parts = [total(x.double() ** 2).cpu() for x in chosen]
        squares = [a + b for a, b in zip(squares, parts, strict=True)] if squares else parts
    means = torch.stack(squares) / chunks.numel
    uniform = torch.full_like(means, 1 / len(means))
    return _Selection(cutoff, uniform if float(means.sum()) < 1e-6 else means / means.sum())


def _selected(x: Sequence[Tensor], cutoff: Cutoff, start: int) -> list[Tensor]:
    if cutoff is EVERYTHING:
        return list(x)
    mask = cutoff.keep(_variance(x), start)
    return [keep(y, mask) for y in x]


@merge_method(measure=_selection)
def sce(sources: Sequence[Tensor], base: Tensor, *, select_topk: float = 1.0, whole: _Selection, start: int) -> Tensor:
    """Merges the elements in which the sources differ most, each source by the energy of its deltas.

    1. select: of the elements that vary across the δ_i, the share `select_topk` with the largest variance;
    2. calculate: c_i = mean(δ_i²) over the tensor, of what is selected, divided by Σ c_i (equal where that is < 1e-6);
    3. erase: s = sign(Σ δ_i) per element, zero as plus; base + Σ over sign(δ_i) = s of c_i δ_i, divided by the sum of
       their c_i.
    """
    chosen = _selected(deltas(sources, base).unbind(), whole.cutoff, start)
    elected = torch.copysign(torch.ones_like(base), sum(chosen[1:], chosen[0]))
    merged, divisor = torch.zeros_like(base), torch.zeros_like(base)
    for delta, share in zip(chosen, whole.shares, strict=True):
        along = (delta * elected).clamp_min(0)
        merged = merged + along * share
        divisor = divisor + along.sign() * share
    return base + merged * elected / divisor.clamp_min(1e-6)
