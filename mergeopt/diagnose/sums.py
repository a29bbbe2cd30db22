"""What weights say of one another, as sums: of a block, of a tensor, of a part, of a model.

Every statistic of the table (norms, cosines, sign conflict, shared support) is a quotient of inner products, and inner
products add. A pass over the weights therefore keeps a few m × m matrices per place, whatever the models' size.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from math import isfinite, nan, sqrt

import torch
from torch import Tensor

from mergeopt.methods.chunks import CHUNK, Chunks
from mergeopt.methods.cutoff import cutoffs

TOP = 0.2  # the share of largest magnitudes whose signs and places are compared
BLOCK = 1 << 20  # elements; the largest fifth is taken of each block, so that one reading is enough


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over some elements, float64; m deltas τ_k = W_k − W_0.

    Attributes:
        gram: ⟨x_i, x_j⟩ of x = τ_1 … τ_m, W_0: [m+1, m+1].
        top: ⟨t_i, t_j⟩ where t_k is τ_k in its largest fifth and 0 elsewhere: [m, m].
        mass: ⟨|t_i|, |t_j|⟩: [m, m].
        shared: elements in the largest fifth of both i and j: [m, m].
        same: elements of W_k that equal W_0's: [m].
        broken: elements of W_k that are NaN or infinite, W_0's last: [m+1]. They count as W_0's own value, or 0.
        numel: elements in all.
    """

    gram: Tensor
    top: Tensor
    mass: Tensor
    shared: Tensor
    same: Tensor
    broken: Tensor
    numel: int

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.gram + other.gram,
            self.top + other.top,
            self.mass + other.mass,
            self.shared + other.shared,
            self.same + other.same,
            self.broken + other.broken,
            self.numel + other.numel,
        )

    @classmethod
    def zero(cls, m: int) -> "Sums":
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        return cls(zeros(m + 1, m + 1), zeros(m, m), zeros(m, m), zeros(m, m), zeros(m), zeros(m + 1), 0)

    @classmethod
    def of(cls, models: Tensor, reference: Tensor) -> "Sums":
        """Sums of a block: models [m, b] and reference [b], both float32. The models are overwritten."""
        broken = torch.zeros(len(models) + 1, dtype=torch.float64)
        if not all(map(_finite, (*models, reference))):
            broken = torch.cat([_broken(models), _broken(reference[None])])
            reference = reference.nan_to_num(0.0, 0.0, 0.0)
            models.copy_(torch.where(torch.isfinite(models), models, reference))
        deltas = models.sub_(reference)
        m, numel = deltas.shape
        cuts = cutoffs(Chunks.of(list(deltas), None), [max(1, int(TOP * numel))] * m)
        gram, same = torch.zeros(m + 1, m + 1, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
        top, mass, shared = (torch.zeros(m, m, dtype=torch.float64) for _ in range(3))
        for start in range(0, numel, CHUNK):
            part = deltas[:, start : start + CHUNK]
            both = torch.cat([part, reference[None, start : start + CHUNK]])
            kept = torch.stack([cut.keep(row, start) for cut, row in zip(cuts, part, strict=True)])
            largest = part * kept
            gram += (both @ both.mT).double()
            same += (part == 0).sum(1)
            top += (largest @ largest.mT).double()
            size = largest.abs_()
            mass += (size @ size.mT).double()
            held = kept.float()
            shared += (held @ held.mT).double()
        return cls(gram, top, mass, shared, same, broken, numel)

    # quotients -----------------------------------------------------------------------------------------------------

    def norm(self, k: int) -> float:
        """‖τ_k‖"""
        return sqrt(float(self.gram[k, k]))

    def ratio(self, k: int) -> float:
        """‖τ_k‖ / ‖W_0‖"""
        return _divided(self.norm(k), sqrt(float(self.gram[-1, -1])))

    def alike(self, k: int) -> float:
        """cos(W_k, W_0)"""
        whole = float(self.gram[-1, -1])
        along = whole + float(self.gram[k, -1])
        size = whole + 2 * float(self.gram[k, -1]) + float(self.gram[k, k])
        return _divided(along, sqrt(max(size, 0.0) * whole))

    def cosine(self, i: int, j: int) -> float:
        """cos(τ_i, τ_j)"""
        return _divided(float(self.gram[i, j]), self.norm(i) * self.norm(j))

    def apart(self, i: int, j: int) -> float:
        """‖W_i − W_j‖"""
        return sqrt(max(0.0, float(self.gram[i, i] + self.gram[j, j] - 2 * self.gram[i, j])))

    def conflict(self, i: int, j: int) -> float:
        """Σ |t_i t_j| over elements of opposite signs, as a share of Σ |t_i t_j|: 0.5 where signs are independent."""
        return _divided(self.opposed(i, j), float(self.mass[i, j]))

    def opposed(self, i: int, j: int) -> float:
        """Σ |t_i t_j| over elements of opposite signs"""
        return float(self.mass[i, j] - self.top[i, j]) / 2

    def support(self, i: int, j: int) -> float:
        """Share of i's largest fifth that is in j's too: 0.2 where places are independent."""
        return _divided(float(self.shared[i, j]), float(self.shared[i, i]))

    def unchanged(self, k: int) -> float:
        """Share of elements that equal the reference's."""
        return _divided(float(self.same[k]), self.numel)


def added(parts: Iterable[Sums], m: int) -> Sums:
    """The sum of sums over m models."""
    return reduce(Sums.__add__, parts, Sums.zero(m))


def _finite(values: Tensor) -> bool:
    """Are all [b] finite? False also where squares are too large for float32."""
    return isfinite(float(torch.linalg.vector_norm(values)))


def _broken(values: Tensor) -> Tensor:
    return (~torch.isfinite(values)).sum(1).double()


def _divided(a: float, b: float) -> float:
    return a / b if b > 0 else nan
