"""Model Stock: as far from the base as the fine-tunes agree (Jang et al. 2024, arXiv 2403.19522)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks
from mergeopt.methods.method import merge_method
from mergeopt.methods.products import products, row_products, spread_rows
from mergeopt.methods.steps import deltas


def _share(inner: Tensor) -> Tensor:
    """t = N cos θ / (1 + (N − 1) cos θ), cos θ the mean over pairs, from the deltas' products [N, N, …]; [...]."""
    n = inner.shape[0]
    norms = torch.diagonal(inner, dim1=0, dim2=1).movedim(-1, 0).sqrt()
    cosines = [(inner[i, j] / (norms[i] * norms[j]).clamp_min(1e-6)).clamp(-1, 1) for i in range(n) for j in range(i)]
    cosine = torch.stack(cosines).mean(0)
    below = 1 + (n - 1) * cosine
    return torch.where(below == 0, 0.0, n * cosine / below)


def _measure(chunks: Chunks, filter_wise: bool) -> Tensor | None:
    return None if filter_wise else _share(products(chunks))


@merge_method(sources=(2, None), measure=_measure)
def model_stock(
    sources: Sequence[Tensor], base: Tensor, *, filter_wise: bool = False, whole: Tensor | None, row: int
) -> Tensor:
    """Between the base and the mean of the sources, nearer to the mean the smaller the angles between their deltas.

    t · mean + (1 − t) · base with t = N cos θ / (1 + (N − 1) cos θ) (the paper's equation 5), θ the mean angle between
    the deltas over the whole tensor, or row by row where `filter_wise`.
    """
    if whole is None:
        whole = spread_rows(_share(row_products(deltas(sources, base).unbind(), row)), row, base)
    mean = sum(sources[1:], sources[0]) / len(sources)
    return mean * whole + base * (1 - whole)
