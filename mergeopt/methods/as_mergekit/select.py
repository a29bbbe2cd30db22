"""nearswap, sce, ram, ramplus_tl and arcee_fusion as mergekit computes them: in the inputs' dtype."""

import torch
from torch import Tensor

from mergeopt.methods.as_mergekit.inputs import Inputs

_SAMPLE = 1_000_000  # elements of a larger tensor that arcee_fusion looks at
_EPS = 1e-8


def nearswap(inputs: Inputs, *, t: float) -> Tensor:
    base, source = inputs.ground, inputs.sources[0]
    share = (t / (base - source).abs().clamp_min(1e-6)).clamp(0, 1)
    return share * source + (1 - share) * base


def sce(inputs: Inputs, *, select_topk: float) -> Tensor:
    base, x = inputs.ground, torch.stack(inputs.deltas)
    if select_topk < 1:
        variance = x.var(0, correction=0)
        k = int(int((variance != 0).sum()) * select_topk)
        mask = torch.zeros_like(variance)
        mask.view(-1)[variance.view(-1).topk(k).indices] = 1
        x = x * mask
    majority = (x.sum(0) >= 0).to(base.dtype) * 2 - 1
    agreed = x.sign() == majority
    shares = (x**2).mean(tuple(range(1, x.ndim)))
    total = shares.sum()
    shares = shares / total if total >= 1e-6 else torch.full_like(shares, 1 / len(shares))
    weights = shares.view(-1, *[1] * base.ndim) * agreed
    return base + (x * weights).sum(0) / weights.sum(0).clamp_min(1e-6)


def ram(inputs: Inputs, *, epsilon: float) -> Tensor:
    x, unique, shared, count = _activity(inputs, epsilon)
    return inputs.ground + (x * unique + x * shared / count).sum(0)


def ramplus_tl(inputs: Inputs, *, r: float, alpha: float, epsilon: float) -> Tensor:
    """The factors of unique deltas are float32, and so is the result."""
    x, unique, shared, count = _activity(inputs, epsilon)
    axes = tuple(range(1, x.ndim))
    overlap = shared.sum(axes).float() / unique.sum(axes).float().clamp_min(epsilon)
    factors = (1 + r * overlap.clamp(0, alpha)).view(-1, *[1] * (x.ndim - 1))
    return inputs.ground + (x * unique * factors + x * shared / count).sum(0)


def _activity(inputs: Inputs, epsilon: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Deltas, where one source alone is active, where several are [n, …], and how many (at least 1)."""
    x = torch.stack(inputs.deltas)
    active = x.abs() > epsilon
    count = active.sum(0)
    return x, active & (count == 1), active & (count > 1), count.clamp_min(1)


def arcee_fusion(inputs: Inputs) -> Tensor:
    """The mask is float32, and so is the result; quantiles of large tensors are those of a sample."""
    base, source = inputs.ground, inputs.sources[0]
    p, q = (x.softmax(-1) + _EPS for x in (source, base))
    importance = (source - base).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
    ranked = importance.flatten()
    if ranked.numel() > _SAMPLE:
        ranked = ranked[torch.randint(0, ranked.numel(), (_SAMPLE,), generator=inputs.random)]
    ranked = ranked.sort().values
    low, middle, high = (ranked[int(share * (ranked.numel() - 1))] for share in (0.25, 0.5, 0.75))
    threshold = middle + 1.5 * (high - low)
    return base + (source - base) * (importance >= threshold).float()
