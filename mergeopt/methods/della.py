"""DELLA: drop deltas at random, the small ones more often (Deep et al. 2024, arXiv 2406.11617)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks
from mergeopt.methods.draws import Draws
from mergeopt.methods.kernels import at_least, below, sorted_rows
from mergeopt.methods.method import merge_method
from mergeopt.methods.steps import deltas, elected_mean, keep, norm_factors, task_sum


def _refusal(coefficients: Mapping[str, Any]) -> str | None:
    """Why these values cannot be meant: a probability outside (0, 1) for some rank."""
    for density, epsilon in zip(coefficients["density"], coefficients["epsilon"], strict=True):
        if 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            return f"density {density:g} ± epsilon {epsilon:g} leaves the open interval (0, 1)"
    return None


def _mask(delta: Tensor, row: int, ordinal: int, start: int, density: float, epsilon: float, draws: Draws) -> Tensor:
    """Mask [b] of whole rows: an element of rank r of n in its row is kept with density − ε + 2ε·r/(n−1).

    Instead of every element's rank, the least rank at which its draw u would keep it, R = ⌊(u − density + ε)(n−1)/2ε⌋ + 1
    (0 below density − ε), is compared with it: by the row's R-th key. Keys are magnitude and place, so no two are equal.
    """
    u = draws.bits(ordinal, start, delta).view(-1, row)
    spread = abs(epsilon) if row > 1 else 0.0
    possible = below(u, _limit(density + spread))
    if spread == 0:
        return possible.view(-1)
    places = torch.arange(row, device=delta.device)
    keys = (delta.detach().float().abs().view(torch.int32).view(-1, row).long() << 32) | places
    if epsilon < 0:
        keys = ~keys
    share = u.float().mul_(2.0**-32).add_(0.5 - density + spread)
    least = share.mul_((row - 1) / (2 * spread)).floor_().add_(1).clamp_(0, row - 1).long()
    return (at_least(keys, sorted_rows(keys).gather(1, least)) & possible).view(-1)


def _limit(density: float) -> int:
    """Draws below it are a share `density` of all."""
    return int(min(max(density, 0.0), 1.0) * (1 << 32)) - (1 << 31)


def _pruned(
    sources: Sequence[Tensor], base: Tensor, density: Tensor, epsilon: Tensor, start: int, row: int, draws: Draws
) -> list[Tensor]:
    result = []
    for i, delta in enumerate(deltas(sources, base)):
        d, e = float(density[i]), float(epsilon[i])
        if d >= 1:
            result.append(delta)
        elif d <= 0:
            result.append(delta * 0)
        else:
            result.append(keep(delta, _mask(delta, row, i, start, d, e, draws)))
    return result


def _factors(chunks: Chunks, density: Tensor, epsilon: Tensor, rescale: bool, draws: Draws) -> Tensor:
    """As DARE's."""
    if not rescale or all(d >= 1 for d in density.tolist()):
        return torch.ones(density.numel(), dtype=torch.float64)
    return norm_factors(
        chunks, lambda sources, base, start: _pruned(sources, base, density, epsilon, start, chunks.row, draws)
    )


@merge_method(measure=_factors, refuses=_refusal)
def della(
    sources: Sequence[Tensor],
    base: Tensor,
    weight: Tensor,
    density: Tensor | float = 1.0,
    epsilon: Tensor | float = 0.15,
    *,
    normalize: bool = True,
    rescale: bool = True,
    lambda_: float = 1.0,
    whole: Tensor,
    start: int,
    row: int,
    draws: Draws,
) -> Tensor:
    """TIES' sign election on deltas dropped at random, the small ones more often.

    In each row (the last axis) of δ_i the element of rank r = 0 … n−1 by magnitude, equal ones in index order, is kept
    with probability density_i − ε_i + 2ε_i·r/(n−1), a row of one element with density_i; all at density 1, none at 0.
    Then as dare_ties: s = sign(Σ w_i δ_i) per element, base + λ Σ over the agreeing of w_i δ_i, divided by the sum of
    their w_i where `normalize`; `rescale` restores each delta's L1 norm.
    """
    assert isinstance(density, Tensor)
    assert isinstance(epsilon, Tensor)
    kept = _pruned(sources, base, density, epsilon, start, row, draws)
    return base + elected_mean(kept, weight, whole, normalize, lambda_)


@merge_method(measure=_factors, refuses=_refusal)
def della_linear(
    sources: Sequence[Tensor],
    base: Tensor,
    weight: Tensor,
    density: Tensor | float = 1.0,
    epsilon: Tensor | float = 0.15,
    *,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
    whole: Tensor,
    start: int,
    row: int,
    draws: Draws,
) -> Tensor:
    """Task arithmetic on deltas dropped at random, the small ones more often: base + λ Σ w_i drop(δ_i).

    Masks as in della; `normalize` divides by Σ w_i.
    """
    assert isinstance(density, Tensor)
    assert isinstance(epsilon, Tensor)
    kept = _pruned(sources, base, density, epsilon, start, row, draws)
    return base + task_sum(kept, weight, whole, normalize, lambda_)
