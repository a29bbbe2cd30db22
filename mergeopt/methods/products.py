"""Inner products of a tensor's sources: of the whole, row by row, or column by column.

Methods on a sphere act in the span of their inputs, so these products in float64 are all they need to know of the
tensor: angles, norms and iterations are then arithmetic on n × n numbers. Where there is a base, the products are
those of source − base.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from math import prod

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks, row_totals, source_deltas, total


def products(chunks: Chunks) -> Tensor:
    """⟨x_i, x_j⟩ over the whole tensor [n, n], on the CPU."""
    if "products" not in chunks.memo:
        parts = (_pairs([x.double() for x in source_deltas(chunk)], total).cpu() for chunk in chunks)
        chunks.memo["products"] = reduce(torch.add, parts)
    result: Tensor = chunks.memo["products"]
    return result


def row_products(x: Sequence[Tensor], row: int) -> Tensor:
    """⟨x_i, x_j⟩ per row of a chunk of whole rows [n, n, rows]."""
    return _pairs([y.double() for y in x], lambda product: row_totals(product, row))


def column_products(chunks: Chunks) -> Tensor:
    """⟨x_i, x_j⟩ along the first axis [n, n, columns], on the CPU; the chunks hold whole rows."""
    if "column products" not in chunks.memo:
        rows = prod(chunks.shape[1:-1])  # of one element along the first axis
        found: Tensor | None = None
        for chunk in chunks:
            part = _pairs([x.double() for x in source_deltas(chunk)], lambda product: product).cpu()
            part = part.view(*part.shape[:2], -1, chunks.row)
            if found is None:
                found = torch.zeros(*part.shape[:2], rows, chunks.row, dtype=torch.float64)
            place = (chunk.start // chunks.row + torch.arange(part.shape[2])) % rows
            found.index_add_(2, place, part)
        assert found is not None
        chunks.memo["column products"] = found.flatten(2)
    result: Tensor = chunks.memo["column products"]
    return result


def spread_rows(values: Tensor, row: int, like: Tensor) -> Tensor:
    """One value per row [rows] as one per element of a chunk of whole rows [b]."""
    return values.to(like).repeat_interleave(row)


def spread_columns(values: Tensor, start: int, like: Tensor) -> Tensor:
    """One value per column [columns] as one per element of a chunk [b] that begins at `start`."""
    place = torch.arange(start, start + like.numel(), device=like.device) % values.numel()
    return values.to(like)[place]


def _pairs(x: Sequence[Tensor], of: Callable[[Tensor], Tensor]) -> Tensor:
    """of(x_i · x_j) for all pairs [n, n, …]; each pair once."""
    n = len(x)
    found = {(i, j): of(x[i] * x[j]) for i in range(n) for j in range(i + 1)}
    return torch.stack([torch.stack([found[max(i, j), min(i, j)] for j in range(n)]) for i in range(n)])
