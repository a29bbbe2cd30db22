"""Task singular vectors: deltas of low rank made orthogonal to each other (Gargiulo et al. 2025, arXiv 2412.00081).

Where models disturb each other, the singular vectors of their deltas overlap. Each matrix's delta keeps its strongest
n-th part, and the singular vectors of all of them are turned into the nearest orthogonal ones together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks
from mergeopt.methods.kernels import one_thread_each
from mergeopt.methods.method import merge_method
from mergeopt.methods.steps import deltas, weighted_sum


def _apart(chunks: Chunks) -> Tensor:
    """δ' [n, numel]: of a matrix [first axis, rest] the orthogonal parts of the deltas; of a vector δ/n.

    The same bits on one machine and device: LAPACK's depend on the number of threads, so there is one.
    """
    parts = []
    for chunk in chunks:
        assert chunk.base is not None
        parts.append(deltas(chunk.sources, chunk.base))
    whole = torch.cat(parts, dim=1)
    n, rows = len(whole), chunks.shape[0] if chunks.shape else 1
    if min(rows, chunks.numel // max(1, rows)) < n or not bool(torch.isfinite(whole).all()):
        return whole / n  # NaN shows
    with one_thread_each():
        return torch.stack([part.reshape(-1) for part in _orthogonal(whole.view(n, rows, -1).unbind())])


def _orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Algorithm 1 of the paper: U_i Σ_i V_iᵀ of rank r/n each, [U_1 … U_n] and [V_1 … V_n] nearest orthogonal."""
    rank = min(matrices[0].shape) // len(matrices)
    found = [torch.linalg.svd(matrix, full_matrices=False) for matrix in matrices]
    strengths = torch.stack([sigma[:rank] for _, sigma, _ in found])
    left = _nearest(torch.cat([u[:, :rank] for u, _, _ in found], dim=1))
    right = _nearest(torch.cat([vt[:rank] for _, _, vt in found], dim=0))
    places = [slice(i * rank, (i + 1) * rank) for i in range(len(matrices))]
    return [(left[:, p] * sigma) @ right[p] for p, sigma in zip(places, strengths, strict=True)]


def _nearest(x: Tensor) -> Tensor:
    """The matrix with orthonormal columns (rows, where those are fewer) nearest to x: P Qᵀ of x = P D Qᵀ."""
    p, _, qt = torch.linalg.svd(x, full_matrices=False)
    nearest: Tensor = p @ qt
    return nearest


@merge_method(measure=_apart)
def tsv(
    sources: Sequence[Tensor],
    base: Tensor,
    weight: Tensor | float = 1.0,
    apart: Tensor | float = 1.0,
    plain: Tensor | float = 0.0,
    *,
    whole: Tensor,
    start: int,
) -> Tensor:
    """Task singular vectors, beside the deltas as they are: base + Σ w_i (apart_i δ'_i + plain_i δ_i).

    Of a matrix, δ'_i is δ_i cut to the n-th part of its rank, its singular vectors made orthogonal to those of the
    others; of a vector, δ_i/n. As it stands it is the paper's TSV-Merge; `apart` 0 and `plain` 1 are task arithmetic,
    so a search over both chooses between them, tensor by tensor. Takes an SVD of every matrix of every source, and
    memory for all deltas of a tensor at once; a search keeps the δ' of all tensors, a float32 model per source.
    """
    assert isinstance(weight, Tensor) and isinstance(apart, Tensor) and isinstance(plain, Tensor)
    parts = whole[:, start : start + base.numel()].unbind()
    whole_deltas = deltas(sources, base).unbind()
    return base + weighted_sum([*parts, *whole_deltas], torch.cat([weight * apart, weight * plain]))
