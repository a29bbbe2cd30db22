"""Arcee Fusion: take over only what matters most (arcee.ai)."""

from collections.abc import Sequence
from math import floor

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunk, Chunks, row_totals
from mergeopt.methods.cutoff import cutoffs
from mergeopt.methods.method import merge_method

_EPS = 1e-8


def _importance(source: Tensor, base: Tensor, row: int) -> Tensor:
    """|source − base| · Σ p log(p/q) per row, p and q the softmax of source and base plus 1e-8; float32 [b]."""
    p, q = (torch.softmax(x.view(-1, row).double(), -1) for x in (source, base))
    p, q = p + _EPS, q + _EPS
    divergence = row_totals((p * torch.log(p / q)).view(-1), row)
    return ((source - base).double().abs() * divergence.repeat_interleave(row)).float()


def _threshold(chunks: Chunks) -> float:
    """Median + 1.5 · (Q3 − Q1) of the importance, quantile q being the ⌊q (numel − 1)⌋-th smallest."""

    def importance(chunk: Chunk) -> list[Tensor]:
        assert chunk.base is not None
        return [_importance(chunk.sources[0], chunk.base, chunks.row)] * 3

    from_top = [chunks.numel - floor(q * (chunks.numel - 1)) for q in (0.25, 0.5, 0.75)]
    low, middle, high = (cutoff.magnitude for cutoff in cutoffs(chunks, from_top, importance, "importance"))
    return middle + 1.5 * (high - low)


@merge_method(sources=(1, 1), measure=_threshold)
def arcee_fusion(sources: Sequence[Tensor], base: Tensor, *, whole: float, row: int) -> Tensor:
    """The source's elements that matter much more than most, the base's elsewhere.

    An element's importance is |source − base| times the divergence KL(softmax(source) ‖ softmax(base)) of its row;
    taken over is what reaches median + 1.5 interquartile ranges. The quantiles are exact (mergekit samples a million
    elements of larger tensors), and the output has the recipe's dtype (mergekit writes float32).
    """
    mask = ~(_importance(sources[0], base, row).double() < whole)
    return base + (sources[0] - base) * mask
