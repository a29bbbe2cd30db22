"""DELLA: drop deltas at random, the small ones more often (Deep et al. 2024, arXiv 2406.11617)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks, Narrow
from mergeopt.methods.draws import Draws, limit_of
from mergeopt.methods.dropping import Drop, Mask, dropped
from mergeopt.methods.fused import Bytes, Election, MaskBytes, Terms
from mergeopt.methods.kernels import at_least, below, sorted_rows, taken
from mergeopt.methods.method import merge_method
from mergeopt.methods.steps import elected_mean, task_shares, task_sum


def _refusal(coefficients: Mapping[str, Any]) -> str | None:
    """Why these values cannot be meant: a probability outside (0, 1) for some rank."""
    for density, epsilon in zip(coefficients["density"], coefficients["epsilon"], strict=True):
        if 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            return f"density {density:g} ± epsilon {epsilon:g} leaves the open interval (0, 1)"
    return None


def _masks(density: Tensor, epsilon: Tensor, row: int, draws: Draws) -> Mask:
    shares = list(zip(density.tolist(), epsilon.tolist(), strict=True))

    def mask(i: int, delta: Tensor, start: int) -> Tensor | None:
        return None if shares[i][0] >= 1 else _mask(delta, row, draws.bits(i, start, delta), *shares[i])

    return mask


def _bytes(density: Tensor, epsilon: Tensor, row: int, draws: Draws) -> MaskBytes:
    """The same of the stored bits, compiled."""
    shares = list(zip(density.tolist(), epsilon.tolist(), strict=True))

    def fill(i: int, narrow: Narrow, out: Bytes) -> None:
        share, spread = shares[i]
        if share >= 1 or share <= 0 or spread == 0 or row == 1:
            draws.fill_kept(i, narrow.start, share, out)
            return
        from mergeopt.methods import compiled

        slope, offset = map(np.float32, _line(row, share, abs(spread)))
        limit = np.int64(limit_of(share + abs(spread)))
        drawn, keys = np.empty((2, narrow.length), np.int32)
        draws.fill_bits(i, narrow.start, drawn)
        compiled.magnitudes(narrow.sources[i], narrow.base, spread < 0, keys)
        rows = keys.reshape(-1, row)
        compiled.keep_ranked(rows, np.sort(rows, axis=1), drawn, slope, offset, limit, out)

    return fill


def _drop(chunks: Chunks, density: Tensor, epsilon: Tensor, rescale: bool, draws: Draws) -> Drop:
    known = _masks(density, epsilon, chunks.row, draws), _bytes(density, epsilon, chunks.row, draws)
    return dropped(chunks, density, rescale, *known)


def _sum(
    weight: Tensor, density: Tensor, epsilon: Tensor, normalize: bool, lambda_: float, whole: Drop, row: int,
    draws: Draws,
) -> Terms:  # fmt: skip
    scale = task_shares(weight, normalize=normalize, lambda_=lambda_) * whole.factors
    return Terms(scale, mask=whole.filled(_bytes(density, epsilon, row, draws)))


def _elected(
    weight: Tensor, density: Tensor, epsilon: Tensor, normalize: bool, lambda_: float, whole: Drop, row: int,
    draws: Draws,
) -> Terms:  # fmt: skip
    mask = whole.filled(_bytes(density, epsilon, row, draws))
    return Terms(weight * whole.factors, Election(weight, normalize, lambda_), mask=mask)


def _mask(delta: Tensor, row: int, draws: Tensor, density: float, epsilon: float) -> Tensor:
    """Mask [b] of whole rows: an element of rank r of n in its row is kept with density − ε + 2ε·r/(n−1).

    Its draw u would keep it from rank R = ⌊(u − density + ε)(n−1)/2ε⌋ + 1 on (from 0 where u < density − ε). So not
    every element's rank is found, but its magnitude compared with the row's R-th. Equal magnitudes, common in bfloat16,
    count as the last or the first of them, by the last bit of their draw: on average as the one in the middle, so that
    the share kept stays the density.

    Args:
        delta: [b].
        row: n.
        draws: Uniform int32 [b].
        density: At least 0; nothing is kept at 0.
        epsilon: Negative ones keep the small elements more often.
    """
    spread = abs(epsilon) if row > 1 and density > 0 else 0.0
    possible = below(draws, limit_of(density + spread))
    if spread == 0:
        return possible
    keys = delta.detach().float().abs().view(torch.int32).view(-1, row)
    if epsilon < 0:
        keys = ~keys
    slope, offset = _line(row, density, spread)
    least = draws.view(-1, row).float().mul_(slope).add_(offset)
    least.clamp_(0, row - 1)
    first = (draws.view(-1, row) & 1 == 0).logical_and_(least >= 1).int()  # above the one before, not at least the R-th
    limits = taken(sorted_rows(keys), least.sub_(first)).add_(first)
    return at_least(keys, limits).view(-1).logical_and_(possible)


def _line(row: int, density: float, spread: float) -> tuple[float, float]:
    """Slope and offset of the rank from which on a draw keeps an element."""
    steps = (row - 1) / (2 * spread)
    return 2.0**-32 * steps, (0.5 - density + spread) * steps + 1


@merge_method(measure=_drop, refuses=_refusal, terms=_elected)
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
    whole: Drop,
    start: int,
    row: int,
    draws: Draws,
) -> Tensor:
    """TIES' sign election on deltas dropped at random, the small ones more often.

    In each row (the last axis) of δ_i the element of rank r = 0 … n−1 by magnitude (equal ones: the middle of
    theirs) is kept with probability density_i − ε_i + 2ε_i·r/(n−1), a row of one element with density_i; all at density
    1, none at 0.
    Then as dare_ties: s = sign(Σ w_i δ_i) per element, base + λ Σ over the agreeing of w_i δ_i, divided by the sum of
    their w_i where `normalize`; `rescale` restores each delta's L1 norm.
    """
    assert isinstance(density, Tensor) and isinstance(epsilon, Tensor)
    kept = whole.kept(sources, base, start, _masks(density, epsilon, row, draws))
    return base + elected_mean(kept, weight, whole.factors, normalize, lambda_)


@merge_method(measure=_drop, refuses=_refusal, terms=_sum)
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
    whole: Drop,
    start: int,
    row: int,
    draws: Draws,
) -> Tensor:
    """Task arithmetic on deltas dropped at random, the small ones more often: base + λ Σ w_i drop(δ_i).

    Masks as in della; `normalize` divides by Σ w_i.
    """
    assert isinstance(density, Tensor) and isinstance(epsilon, Tensor)
    kept = whole.kept(sources, base, start, _masks(density, epsilon, row, draws))
    return base + task_sum(kept, weight, whole.factors, normalize, lambda_)
