"""Karcher mean: the average on the sphere (Karcher 1977; for merging arXiv 2603.04972)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks
from mergeopt.methods.method import Threshold, merge_method
from mergeopt.methods.products import products
from mergeopt.methods.steps import weighted_sum


def _shares(chunks: Chunks, max_iter: int, tol: float) -> Tensor:
    """The mean's coordinates [n] in its sources: every iterate lies in their span."""
    inner = products(chunks)
    norms = inner.diagonal().sqrt()
    used = [i for i, norm in enumerate(norms.tolist()) if not norm <= tol]
    shares = torch.zeros_like(norms)
    if used:
        unit = inner[used][:, used] / torch.outer(norms[used], norms[used])
        shares[used] = _mean_direction(unit, max_iter, tol) / norms[used] * norms.mean()
    return shares


def _mean_direction(unit: Tensor, max_iter: int, tol: float) -> Tensor:
    """Coordinates [m] of the Karcher mean of m unit vectors whose products are `unit` [m, m]."""

    def norm(x: Tensor) -> Tensor:
        return (x @ unit @ x).clamp_min(0).sqrt()

    n = unit.shape[0]
    mean = torch.full((n,), 1 / n, dtype=unit.dtype)
    mean = mean / norm(mean) if float(norm(mean)) >= tol else torch.eye(n, dtype=unit.dtype)[0]
    for _ in range(max_iter):
        cosine = (unit @ mean).clamp(-1, 1)
        theta = torch.acos(cosine)
        pull = torch.where(theta < tol, 0.0, theta / torch.sin(theta) / n)
        tangent = pull - (pull @ cosine) * mean  # Σ log-maps at the mean
        length = norm(tangent)
        if float(length) < tol:
            break
        mean = mean * torch.cos(length) + tangent * (torch.sin(length) / length)
        mean = mean / norm(mean)
    return mean


@merge_method(measure=_shares)
def karcher(sources: Sequence[Tensor], *, max_iter: int = 10, tol: Threshold = 1e-5, whole: Tensor) -> Tensor:
    """The point of the unit sphere with the least squared angles to all sources, at the mean of their norms.

    From the normalised average on, at most `max_iter` steps along the mean of the log-maps, until it is shorter than
    `tol`; sources of norm up to `tol` count for the norm only. All sources weigh the same.
    """
    return weighted_sum(sources, whole)
