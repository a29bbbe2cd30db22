"""Linear: the weighted average, "model soup" (Wortsman et al. 2022, arXiv 2203.05482)."""

from collections.abc import Sequence

from torch import Tensor

from mergeopt.methods.method import merge_method
from mergeopt.methods.steps import weighted_sum


def _shares(weight: Tensor, *, normalize: bool) -> Tensor:
    return weight / weight.sum() if normalize else weight


@merge_method(shares=_shares)
def linear(sources: Sequence[Tensor], weight: Tensor, *, normalize: bool = True) -> Tensor:
    """Weighted average of the sources: Σ w_i x_i, divided by Σ w_i where `normalize`."""
    return weighted_sum(sources, _shares(weight, normalize=normalize))
