"""dL/d(every number of a refinement) of a live merge, from the gradients of its weights.

A refinement is linear in its numbers, so with G = dL/dW the gradients are Σ_j G·δ for rows, Σ_i G·δ for columns and
σ · diag(Uᵀ G V) for singular components, wherever the live model stands.
"""

import torch
from torch import Tensor

from mergeopt.merge.compute import chunks_of, factors
from mergeopt.merge.live import LiveModel
from mergeopt.merge.plan import Job, Plan
from mergeopt.merge.refinement import Key, delta, deltas, empty, row_of_line, width


class RefinementGradient:
    """A `Contract` that sums the gradient of a refinement's numbers over backwards.

    Rows and columns go block by block, with float32 products and sums of one block; singular components take a product
    of whole matrices per source, and keep the factors of every delta with the live model.

    Args:
        live: The model, and where its sources' elements come from.
        plan: What the model holds (with or without a refinement).
        kind: As for `empty`.
    """

    def __init__(self, live: LiveModel, plan: Plan, kind: str) -> None:
        self._live = live
        self._sums = {
            key: torch.zeros_like(value, dtype=torch.float64, device=live.view(key.tensor).device)
            for key, value in empty(plan, kind).items()
        }

    def values(self) -> dict[Key, Tensor]:
        """The gradient so far, float64 on the CPU, under the keys of `empty`. Zero where no backward reached."""
        return {key: value.to("cpu", copy=True) for key, value in self._sums.items()}

    def __call__(self, job: Job, gradient: Tensor) -> None:
        blockwise: list[tuple[int, Tensor | None, Tensor | None]] = []
        for index, item in deltas(job):
            rows, columns, singular = (
                self._sums.get(Key(str(item.model), job.tensor, axis)) for axis in ("rows", "columns", "singular")
            )
            if rows is not None or columns is not None:
                blockwise.append((index, rows, columns))
            if singular is not None:
                found = factors(job, index, self._live.source, self._live.memo(job))
                left, sigma, right = (factor.to(gradient.device) for factor in found)
                whole = gradient.reshape(job.shape[0], -1).to(sigma.dtype)
                singular.add_(sigma * ((left.T @ whole) * right).sum(1))
        if blockwise:
            self._lines(job, gradient.reshape(-1), blockwise)

    def _lines(self, job: Job, flat: Tensor, sums: list[tuple[int, Tensor | None, Tensor | None]]) -> None:
        across = width(job.shape)
        for chunk in chunks_of(job, self._live.source, multiple=across, differing=True):
            part = flat[chunk.start : chunk.start + chunk.sources[0].numel()]
            first = chunk.start // across
            lines = row_of_line(job.shape, first, first + part.numel() // across, flat.device)
            for index, rows, columns in sums:
                product = delta(chunk, index).to(part.device).mul_(part).view(-1, across)
                if rows is not None:
                    rows.index_add_(0, lines, product.sum(1).double())
                if columns is not None:
                    columns.add_(product.sum(0))
