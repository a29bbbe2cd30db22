"""Task arithmetic (Ilharco et al. 2023, arXiv 2212.04089)."""

from collections.abc import Sequence

from torch import Tensor

from mergeopt.methods.method import merge_method
from mergeopt.methods.steps import deltas, task_shares, weighted_sum


@merge_method(shares=task_shares)
def task_arithmetic(
    sources: Sequence[Tensor], base: Tensor, weight: Tensor, *, normalize: bool = False, lambda_: float = 1.0
) -> Tensor:
    """Base plus weighted deltas: base + λ Σ w_i δ_i, divided by Σ w_i where `normalize` (and |Σ w_i| ≥ 1e-8)."""
    return base + weighted_sum(deltas(sources, base), task_shares(weight, normalize=normalize, lambda_=lambda_))
