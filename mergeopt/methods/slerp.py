"""Slerp: along the great circle between two tensors (Shoemake 1985)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks, total
from mergeopt.methods.fused import Terms
from mergeopt.methods.method import merge_method


def _angle(chunks: Chunks) -> tuple[Tensor, Tensor]:
    """cos θ between base and source, and θ (0-D float64); a tensor of norm below 1e-8 stays unnormalised."""
    aa, ab, bb = _products(chunks)
    norms = [torch.where(x.sqrt() > 1e-8, x.sqrt(), 1.0) for x in (aa, bb)]
    cosine = (ab / (norms[0] * norms[1])).clamp(-1, 1)
    return cosine, torch.acos(cosine)


def _products(chunks: Chunks) -> Tensor:
    """Σ base², Σ base · source and Σ source², float64 [3]."""
    found = torch.zeros(3, dtype=torch.float64)
    if chunks.narrow is not None:
        from mergeopt.methods import compiled

        for narrow in chunks.narrow():
            found += torch.tensor(compiled.products(narrow.base, narrow.sources[0]), dtype=torch.float64)
        return found
    for chunk in chunks:
        assert chunk.base is not None
        a, b = chunk.base.double(), chunk.sources[0].double()
        found += torch.stack([total(a * a), total(a * b), total(b * b)]).cpu()
    return found


def _shares(t: Tensor, whole: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Of the base and of the source, 0-D."""
    cosine, theta = whole
    if abs(float(cosine)) > 0.9995:
        return 1 - t, t
    return torch.sin((1 - t) * theta) / torch.sin(theta), torch.sin(t * theta) / torch.sin(theta)


def _terms(t: Tensor, whole: tuple[Tensor, Tensor]) -> Terms:
    base, source = _shares(t, whole)
    return Terms(source.view(1), base=base)


@merge_method(sources=(1, 1), measure=_angle, terms=_terms)
def slerp(sources: Sequence[Tensor], base: Tensor, *, t: Tensor, whole: tuple[Tensor, Tensor]) -> Tensor:
    """Spherical interpolation from the base (t = 0) to the source (t = 1).

    [sin((1−t)θ) base + sin(tθ) source] / sin θ with θ the angle between the whole tensors; linear where
    |cos θ| > 0.9995.
    """
    ground, along = _shares(t, whole)
    return base * ground + sources[0] * along
