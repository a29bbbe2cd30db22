"""Slerp: along the great circle between two tensors (Shoemake 1985)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks, total
from mergeopt.methods.method import merge_method


def _angle(chunks: Chunks) -> tuple[Tensor, Tensor]:
    """cos θ between base and source, and θ (0-D float64); a tensor of norm below 1e-8 stays unnormalised."""
    aa, ab, bb = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    for chunk in chunks:
        assert chunk.base is not None
        a, b = chunk.base.double(), chunk.sources[0].double()
        aa, ab, bb = aa + total(a * a).cpu(), ab + total(a * b).cpu(), bb + total(b * b).cpu()
    norms = [torch.where(x.sqrt() > 1e-8, x.sqrt(), 1.0) for x in (aa, bb)]
    cosine = (ab / (norms[0] * norms[1])).clamp(-1, 1)
    return cosine, torch.acos(cosine)


@merge_method(sources=(1, 1), measure=_angle)
def slerp(sources: Sequence[Tensor], base: Tensor, *, t: Tensor, whole: tuple[Tensor, Tensor]) -> Tensor:
    """Spherical interpolation from the base (t = 0) to the source (t = 1).

    [sin((1−t)θ) base + sin(tθ) source] / sin θ with θ the angle between the whole tensors; linear where
    |cos θ| > 0.9995.
    """
    cosine, theta = whole
    if abs(float(cosine)) > 0.9995:
        return base * (1 - t) + sources[0] * t
    return base * (torch.sin((1 - t) * theta) / torch.sin(theta)) + sources[0] * (
        torch.sin(t * theta) / torch.sin(theta)
    )
