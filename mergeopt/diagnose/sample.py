"""What needs whole matrices, and so is looked at in a sample: spectra of deltas, and the order of units.

Three layers speak for the model, matrices are thinned by rows, and random numbers come from generators of their own:
the same models give the same numbers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import nan
from statistics import fmean, median

import torch
from torch import Tensor

from mergeopt.checkpoint.reader import Reader, torch_dtype
from mergeopt.diagnose.subjects import Common, Subjects, by_layer
from mergeopt.merge.sources import opened_readers
from mergeopt.methods.kernels import one_thread_each
from mergeopt.recipe.recipe import ModelRef

ELEMENTS = 1 << 22  # of a thinned matrix
RANK = 16  # singular directions that are compared
UNITS = 512  # of the reference, that are looked for in the model
FEATURES = 512  # weights of a unit that are compared
ROUTER = re.compile(r"(^|\.)(gate|router|wg)(\.(layer|classifier|linear))?\.weight$")


@dataclass(frozen=True, slots=True)
class Units:
    """Are the MLP's units in the reference's order?

    matched: share of units whose nearest one in the model (cosine of incoming weights) is the unit of the same number.
    likeness: the median cosine of a unit and its nearest one, wherever that stands.
    """

    matched: float
    likeness: float


@dataclass(frozen=True)
class Sample:
    """Of the matrices and layers named: the stable rank ‖τ‖²_F / σ₁² of each model's deltas (median), the overlap of
    two deltas' top singular spaces (mean), what unrelated deltas would have, the order of units, and per model of a
    mixture of experts the share of experts whose router rows are nearest to their own."""

    matrices: tuple[str, ...]
    layers: tuple[int, ...]
    stable_rank: Mapping[ModelRef, float]
    overlap: Mapping[tuple[ModelRef, ModelRef], float]
    chance: float
    units: Mapping[ModelRef, Units]
    experts: Mapping[ModelRef, float]


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The top of a delta [a, b]: stable rank, and r singular directions on either side, [a, r] and [b, r]."""

    stable_rank: float
    left: Tensor
    right: Tensor


def take_sample(subjects: Subjects) -> Sample:
    """Reads the sample; holds one thinned matrix of every model at a time.

    Raises:
        MergeoptError: a file that cannot be read.
    """
    layers = tuple(sorted({subjects.layers * i // 4 for i in (1, 2, 3)})) if subjects.layers else ()
    chosen = _matrices(subjects, layers)
    with opened_readers(subjects.checkpoints) as readers, one_thread_each(), torch.inference_mode():
        read = _Thinned(subjects, readers)
        spectra = [read.spectra(tensor) for tensor in chosen]
        units = {ref: _mean([read.units(t, ref) for t in _first_of_mlp(subjects, layers)]) for ref in subjects.others}
        routers = [t for t in subjects.common if ROUTER.search(t.name) and t.place.layer in layers]
        experts = {ref: fmean(read.units(t, ref).matched for t in routers) for ref in subjects.others if routers}
    ranks = {ref: _median([found[ref].stable_rank for found in spectra if ref in found]) for ref in subjects.others}
    overlap = {
        (a, b): _overlap([(found[a], found[b]) for found in spectra if a in found and b in found])
        for a, b in combinations(subjects.others, 2)
    }
    chance = fmean(_chance(tensor) for tensor in chosen) if chosen else nan
    kept = {ref: found for ref, found in units.items() if found is not None}
    return Sample(tuple(t.name for t in chosen), layers, ranks, overlap, chance, kept, experts)


def spectrum(delta: Tensor) -> Spectrum:
    """The top of a matrix [a, b], float32, by subspace iteration (Halko et al. 2011, arXiv 0909.4061)."""
    rank = rank_of(delta.shape)
    right = torch.randn(delta.shape[1], min(rank + 8, *delta.shape), generator=torch.Generator().manual_seed(0))
    left = right
    for _ in range(4):
        left = torch.linalg.qr(delta @ right).Q
        right = torch.linalg.qr(delta.mT @ left).Q
    u, s, v = torch.linalg.svd(left.mT @ delta, full_matrices=False)
    top = float(s[0])
    stable = float(delta.square().sum()) / top**2 if top > 0 else nan
    return Spectrum(stable, (left @ u)[:, :rank], v[:rank].mT)


def rank_of(shape: Sequence[int]) -> int:
    """How many directions of a matrix are compared: no more than a quarter of them."""
    return max(1, min(RANK, min(shape) // 4))


def overlap(a: Spectrum, b: Spectrum) -> float:
    """‖U_aᵀ U_b‖²_F / r, the mean of the left and the right side: 1 for equal spaces, r/d for unrelated ones."""
    sides = ((a.left, b.left), (a.right, b.right))
    return fmean(float((x.mT @ y).square().sum()) / x.shape[1] for x, y in sides)


def match(model: Tensor, reference: Tensor, numbers: Tensor) -> Units:
    """Looks for the units `numbers` of the reference, rows of [u, f], among the model's [U, f]."""
    wanted = torch.nn.functional.normalize(reference, dim=1)
    there = torch.nn.functional.normalize(model, dim=1)
    best, where = (wanted @ there.mT).max(1)
    return Units(float((where == numbers).double().mean()), float(best.median()))


class _Thinned:
    """Reads some rows of matrices."""

    def __init__(self, subjects: Subjects, readers: Mapping[ModelRef, Reader]) -> None:
        self._subjects, self._readers = subjects, readers

    def spectra(self, tensor: Common) -> dict[ModelRef, Spectrum]:
        """Of every delta that is not zero."""
        rows = some(tensor.shape[0], max(1, ELEMENTS // tensor.shape[1]))
        base = self._rows(self._subjects.reference, tensor, rows)
        found = {}
        for ref in self._subjects.others:
            delta = (self._rows(ref, tensor, rows) - base).nan_to_num(0.0, 0.0, 0.0)
            if delta.any():
                found[ref] = spectrum(delta)
        return found

    def units(self, tensor: Common, ref: ModelRef) -> Units:
        """The units of the reference's matrix [units, hidden] in the model's."""
        columns = some(tensor.shape[1], FEATURES)
        numbers = some(tensor.shape[0], UNITS)
        every = torch.arange(tensor.shape[0])
        reference = self._rows(self._subjects.reference, tensor, numbers, columns)
        return match(self._rows(ref, tensor, every, columns), reference, numbers)

    def _rows(self, ref: ModelRef, tensor: Common, rows: Tensor, columns: Tensor | None = None) -> Tensor:
        width = tensor.shape[1]
        dtype = torch_dtype(self._subjects.checkpoints[ref].tensors[tensor.name].dtype)
        buffer = torch.empty(width, dtype=dtype)
        out = torch.empty(len(rows), width if columns is None else len(columns))
        for line, row in zip(out, rows.tolist(), strict=True):
            self._readers[ref].read_into(tensor.name, row * width, buffer)
            line.copy_(buffer if columns is None else buffer[columns])
        return out.nan_to_num_(0.0, 0.0, 0.0)


def some(count: int, most: int) -> Tensor:
    """At most `most` ascending numbers below `count`; not evenly spaced, which would see one place of every head."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[:most].sort().values


def _matrices(subjects: Subjects, layers: Sequence[int]) -> tuple[Common, ...]:
    """The largest attention and MLP matrix of each sampled layer."""
    found = []
    for part in ("attention", "mlp"):
        of_layer = by_layer(subjects.common, part)
        for layer in layers:
            flat = [tensor for tensor in of_layer.get(layer, []) if len(tensor.shape) == 2]
            if flat:
                found.append(max(flat, key=lambda tensor: tensor.numel))
    return tuple(found)


def _first_of_mlp(subjects: Subjects, layers: Sequence[int]) -> list[Common]:
    """Per sampled layer the first MLP matrix with a row per unit: as wide as the hidden state, and not as high."""
    of_layer, width = by_layer(subjects.common, "mlp"), subjects.width
    found = []
    for layer in layers:
        fit = [t for t in of_layer.get(layer, []) if len(t.shape) == 2 and t.shape[1] == width != t.shape[0]]
        found += [t for t in fit if not ROUTER.search(t.name)][:1]
    return found


def _mean(found: Sequence[Units]) -> Units | None:
    if not found:
        return None
    return Units(fmean(u.matched for u in found), fmean(u.likeness for u in found))


def _median(values: Sequence[float]) -> float:
    return median(values) if values else nan


def _overlap(pairs: Sequence[tuple[Spectrum, Spectrum]]) -> float:
    return fmean(overlap(a, b) for a, b in pairs) if pairs else nan


def _chance(tensor: Common) -> float:
    rows = min(tensor.shape[0], max(1, ELEMENTS // tensor.shape[1]))
    return fmean(rank_of((rows, tensor.shape[1])) / size for size in (rows, tensor.shape[1]))
