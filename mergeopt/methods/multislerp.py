"""Multi-SLERP: the weighted mean direction of any number of models (C. Goddard, 2025)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks
from mergeopt.methods.method import Threshold, merge_method
from mergeopt.methods.products import products
from mergeopt.methods.steps import deltas, weighted_sum


def _products(chunks: Chunks) -> Tensor:
    return products(chunks)


@merge_method(measure=_products)
def multislerp(
    sources: Sequence[Tensor],
    weight: Tensor,
    base: Tensor | None = None,
    *,
    normalize_weights: bool = True,
    eps: Threshold = 1e-8,
    whole: Tensor,
) -> Tensor:
    """The mean of the directions, at the mean of the norms; of the deltas where there is a base.

    m = Σ w_i u_i with u_i = x_i / (‖x_i‖ + eps), over the whole tensor; m/‖m‖ · Σ w_i ‖x_i‖. Weights are divided by
    their sum where `normalize_weights` (and |Σ w_i| ≥ 1e-8). Directions that cancel (‖m‖ < eps) are averaged as they
    are. The definition goes on to the mean of the tangents at m, which is zero by the choice of m, and leaves a factor
    cos(eps). A single source stays as it is.
    """
    if len(sources) == 1:
        return sources[0]
    x = list(sources) if base is None else deltas(sources, base)
    if normalize_weights and abs(float(weight.detach().sum())) >= 1e-8:
        weight = weight / weight.sum()
    norms = whole.diagonal().sqrt()
    shares = weight / (norms + eps)
    square = shares @ whole @ shares
    if float(square.detach()) >= eps**2:
        weight = shares * ((weight @ norms) / square.sqrt() * torch.cos(torch.tensor(eps)))
    merged = weighted_sum(x, weight)
    return merged if base is None else base + merged
