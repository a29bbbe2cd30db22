"""RAM: average what sources share, keep what is their own (Reinforced Agent Merging, arXiv 2601.13572)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks, source_deltas
from mergeopt.methods.method import Threshold, merge_method
from mergeopt.methods.steps import deltas


def _active(x: Sequence[Tensor], epsilon: float) -> tuple[list[Tensor], Tensor]:
    """Where |δ_i| > epsilon (NaN too), and how many sources are active there [b]."""
    active = [~(y.abs() <= epsilon) for y in x]
    return active, sum(active[1:], active[0].to(torch.int32))


def _overlap(chunks: Chunks, epsilon: float) -> Tensor:
    """ρ_i [n]: active elements that source i shares with others, over those that are its own."""
    shared = unique = torch.zeros((), dtype=torch.int64)
    for chunk in chunks:
        active, count = _active(source_deltas(chunk), epsilon)
        shared = shared + torch.stack([(mask & (count > 1)).sum() for mask in active]).cpu()
        unique = unique + torch.stack([(mask & (count == 1)).sum() for mask in active]).cpu()
    return shared / unique.double().clamp_min(epsilon)


def _merged(sources: Sequence[Tensor], base: Tensor, epsilon: float, factors: Sequence[Tensor | float]) -> Tensor:
    """base + Σ over what one source alone moves of factor_i δ_i + the mean of δ_i where several do."""
    x = deltas(sources, base).unbind()
    active, count = _active(x, epsilon)
    alone, own, shared = count == 1, torch.zeros_like(base), torch.zeros_like(base)
    for delta, mask, factor in zip(x, active, factors, strict=True):
        own = own + delta * (mask & alone) * factor
        shared = shared + delta * mask
    return base + own + shared * (count > 1) / count.clamp_min(1)


@merge_method()
def ram(sources: Sequence[Tensor], base: Tensor, *, epsilon: Threshold = 1e-5) -> Tensor:
    """Deltas that one source alone has are added whole; those that several have (|δ_i| > epsilon) are averaged."""
    return _merged(sources, base, epsilon, [1.0] * len(sources))


@merge_method(measure=_overlap)
def ramplus_tl(
    sources: Sequence[Tensor],
    base: Tensor,
    *,
    r: float = 0.1,
    alpha: Tensor | float = 0.2,
    epsilon: Threshold = 1e-5,
    whole: Tensor,
) -> Tensor:
    """RAM with each source's own deltas strengthened, the more the source shares with others.

    Their factor is 1 + r · min(ρ_i, alpha), ρ_i = shared over own active elements of source i in this tensor.
    """
    assert isinstance(alpha, Tensor)
    factors = 1 + r * torch.minimum(whole.to(alpha), alpha).clamp_min(0)
    return _merged(sources, base, epsilon, list(factors))
