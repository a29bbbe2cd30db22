"""NuSLERP: slerp of two models by weights, of their deltas where there is a base (mergekit, 2024)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks
from mergeopt.methods.method import merge_method
from mergeopt.methods.products import column_products, products, row_products, spread_columns, spread_rows
from mergeopt.methods.steps import deltas


def _angle(inner: Tensor) -> Tensor:
    """θ between two vectors [...], from their products [2, 2, …]."""
    norms = [inner[i, i].sqrt().clamp_min(1e-7) for i in (0, 1)]
    return torch.acos((inner[0, 1] / (norms[0] * norms[1])).clamp(-1, 1))


def _measure(chunks: Chunks, nuslerp_flatten: bool, nuslerp_row_wise: bool) -> Tensor | None:
    if nuslerp_flatten:
        return _angle(products(chunks))
    columns = nuslerp_row_wise and len(chunks.shape) > 1  # a tensor of one axis is one vector
    return _angle(column_products(chunks)) if columns else None


@merge_method(sources=(2, 2), measure=_measure)
def nuslerp(
    sources: Sequence[Tensor],
    weight: Tensor,
    base: Tensor | None = None,
    *,
    nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
    whole: Tensor | None,
    start: int,
    row: int,
) -> Tensor:
    """Spherical interpolation by the share t = w_2 / (w_1 + w_2) of the second source (1/2 where the weights cancel).

    [sin((1−t)θ) x_1 + sin(tθ) x_2] / sin θ, linear where sin θ < 1e-7; with a base x are the deltas and the base is
    added. θ is that of the whole tensors, or without `nuslerp_flatten` one per vector along the last axis (with
    `nuslerp_row_wise` along the first: mergekit's names stand for the transposed matrix).
    """
    x = list(sources) if base is None else list(deltas(sources, base))
    theta = _angle(row_products(x, row)) if whole is None else whole
    if theta.numel() > 1 or whole is None:
        theta = spread_rows(theta, row, x[0]) if whole is None else spread_columns(theta, start, x[0])
    both = weight.sum()
    t = weight[1] / both if abs(float(both.detach())) >= 1e-6 else 0.5 + 0 * both
    flat = torch.sin(theta) < 1e-7  # below it the angle is a rounding of the cosine
    sine = torch.where(flat, 1.0, torch.sin(theta))
    shares = [torch.where(flat, s, torch.sin(s * theta) / sine) for s in (1 - t, t)]
    merged = x[0] * shares[0] + x[1] * shares[1]
    return merged if base is None else base + merged
