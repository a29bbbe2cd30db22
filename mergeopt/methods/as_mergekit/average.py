"""linear, passthrough and model_stock as mergekit computes them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergeopt.methods.as_mergekit.inputs import Inputs, wide


def linear(inputs: Inputs, *, weight: Sequence[float], normalize: bool) -> Tensor:
    """Added up in float32."""
    result = torch.zeros_like(wide(inputs.sources[0]))
    for x, w in zip(inputs.sources, weight, strict=True):
        result.add_(wide(x), alpha=w)
    if normalize:
        result = result / torch.tensor(weight, dtype=result.dtype).sum()
    return result.to(inputs.sources[0].dtype)


def passthrough(inputs: Inputs, *, scale: Sequence[float | None]) -> Tensor:
    """Times a number that is not rounded."""
    return inputs.sources[0] if scale[0] is None else inputs.sources[0] * scale[0]


def model_stock(inputs: Inputs, *, filter_wise: bool) -> Tensor:
    """All in the inputs' dtype."""
    base, n = inputs.ground, len(inputs.sources)
    by_row = filter_wise and base.ndim > 1
    x = [delta if by_row else delta.reshape(1, -1) for delta in inputs.deltas]
    cosines = []
    for i in range(n):
        for j in range(i + 1, n):
            norms = (x[i].norm(dim=-1) * x[j].norm(dim=-1)).clamp_min(1e-6)
            cosines.append(((x[i] * x[j]).sum(-1) / norms).clamp(-1, 1))
    cosine = torch.stack(cosines).mean(0)
    below = 1 + (n - 1) * cosine
    t = torch.where(below == 0, 0, n * cosine / below)
    t = t.unsqueeze(-1) if by_row else t.view(())
    mean = sum(inputs.sources[1:], inputs.sources[0]) / n
    return t * mean + (1 - t) * base
