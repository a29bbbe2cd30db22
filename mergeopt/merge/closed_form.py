"""Merging weights from the weights alone: two closed forms that need no data, as settings of task arithmetic.

Both come from the sources' deltas τ_k = source_k − base, read once (`overlaps`): MetaGPT's one weight per source, and
a least-squares fit with weights of its own for every layer. They are starts and yardsticks, not results.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod, sqrt

import torch
from torch import Tensor

from mergeopt.errors import InputError
from mergeopt.merge.layout import FLOATS, Input, Slot, lay_out
from mergeopt.merge.names import is_embedding
from mergeopt.merge.sources import Checkpoints, FileSource, facts, opened_readers
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.recipe import Recipe
from mergeopt.recipe.settings import Entry, Setting
from mergeopt.space.filters import Group, Names, arrange

SAMPLE = 1 << 20  # elements: what a tensor is thinned to
RIDGE = 1e-3
LOW, HIGH = -0.5, 1.5


@dataclass(frozen=True, slots=True)
class Part:
    """Tensors that share their weights: layer `layer` of a stack, or (layer None) the tensor of that name."""

    name: str
    layer: int | None


@dataclass(frozen=True)
class Overlaps:
    """What the closed forms need of n deltas.

    Attributes:
        norms: ‖τ_k‖² over all tensors, [n].
        normal: Per part the normal equations (A, b) of the least squares, [n, n] and [n]; zero where a part has no
            matrix.
        names: Per source, which part each of its tensors belongs to.
    """

    norms: Tensor
    normal: Mapping[Part, tuple[Tensor, Tensor]]
    names: tuple[Mapping[str, Part], ...]


def overlaps(recipe: Recipe, checkpoints: Checkpoints) -> Overlaps:
    """Reads every delta once, one tensor of all models in memory at a time.

    The least squares ask, for each matrix (y = W x) of a part, that the merge do to each source's inputs what the
    source does: min_a Σ_i E_i‖Σ_k a_k τ_k x − τ_i x‖². Gradient descent makes τ_i of its inputs, so that
    C_i = τ_iᵀτ_i / ‖τ_i‖² stands for their covariance, as in WUDI-Merging (Cheng et al. 2025, arXiv 2503.08099). Then
    A a = b with A_kj = Σ_i tr(τ_k C_i τ_jᵀ) and b_k = Σ_i tr(τ_k C_i τ_iᵀ), both summed over the part's matrices: the
    size of a matrix' inputs is not known from weights, and C_i, of trace 1, takes it to be the same for all.

    A tensor beyond 2^20 elements is thinned to that many, and its sums scaled up: the same share of rows and of
    columns, drawn at random but always the same. That keeps the ratio of its sides, and so how much unrelated deltas
    overlap.

    Args:
        recipe: Task arithmetic over at least one whole model; its numbers do not matter.
        checkpoints: Its models.

    Raises:
        InputError: models that do not fit together, deltas that are all zero or not finite.
    """
    layout = lay_out(recipe, facts(checkpoints), SCHEMAS[recipe.method])
    n = len(recipe.slices[0].sources)
    norms = torch.zeros(n, dtype=torch.float64)
    normal: dict[Part, tuple[Tensor, Tensor]] = {}
    names: tuple[dict[str, Part], ...] = tuple({} for _ in range(n))
    with opened_readers(checkpoints) as readers:
        source = FileSource(readers, checkpoints)
        for slot in layout.slots:
            part = _part_of(slot, checkpoints)
            for own, (_, item) in zip(names, slot.sources, strict=True):
                own[item.tensor] = part
            a, b = normal.setdefault(part, (norms.new_zeros(n, n), norms.new_zeros(n)))
            if slot.dtype not in FLOATS or prod(slot.shape) == 0:
                continue
            deltas = _deltas(slot, source)
            scale = prod(slot.shape) / deltas[0].numel()
            norms += deltas.square().sum((1, 2)) * scale
            if len(slot.shape) == 2:
                more = _equations(deltas.mT if is_embedding(slot.tensor) else deltas)  # a token is a row, not a column
                a += more[0] * scale
                b += more[1] * scale
    if not 0 < float(norms.sum()) < float("inf"):
        raise InputError(
            f"the sources do not differ from {str(recipe.base)!r} by finite numbers",
            remedy="name the model that they were trained from as base_model",
        )
    return Overlaps(norms, normal, names)


def norm_weights(found: Overlaps) -> list[float]:
    """One weight per source, ‖τ_k‖² / Σ_j ‖τ_j‖²: MetaGPT (Zhou et al. 2024, arXiv 2406.11385)."""
    return _rounded(found.norms / found.norms.sum())


def layer_weights(found: Overlaps) -> list[Setting]:
    """Per source the `weight` of the least squares: a list over layers, tensors of no layer by name.

    Each part solves (A + ρ 1) a = b + ρ/n, a ridge towards the average with ρ = 10⁻³ tr A / n; a part without
    matrices (a final norm) takes what all parts together say. Weights are kept inside [−0.5, 1.5].
    """
    together = _solve(*(sum(column[1:], column[0]) for column in zip(*found.normal.values(), strict=True)))
    weights = {part: _solve(a, b) if a.any() else together for part, (a, b) in found.normal.items()}
    return [_setting(names, {part: w[k] for part, w in weights.items()}) for k, names in enumerate(found.names)]


def _part_of(slot: Slot, checkpoints: Checkpoints) -> Part:
    """A tied head goes with its embeddings, also beside untied ones: filters see one name for both."""
    assert slot.base is not None
    info = checkpoints[slot.base.model].shape.tensors[slot.base.tensor]
    if info.layer is not None:
        return Part(info.stack, info.layer)
    inputs = [item.tensor for _, item in slot.sources] + [slot.base.tensor]
    return Part(next((name for name in inputs if name != slot.tensor), slot.tensor), None)


def _deltas(slot: Slot, source: FileSource) -> Tensor:
    """The slot's deltas [n, rows, columns] in float64, thinned; a vector is one row."""
    assert slot.base is not None
    height, width = prod(slot.shape[:-1]), prod(slot.shape[-1:])
    share = min(1.0, sqrt(SAMPLE / (height * width)))
    rows, columns = _some(height, share), _some(width, share)

    def read(item: Input) -> Tensor:
        if share == 1:
            return source.chunk(item, 0, height * width).to(torch.float64, copy=True).view(height, width)
        starts = [row * width for row in rows.tolist()]
        return torch.stack([source.chunk(item, start, start + width)[columns] for start in starts]).double()

    base = read(slot.base)
    return torch.stack([read(item) - base for _, item in slot.sources])


def _some(count: int, share: float) -> Tensor:
    """Ascending indices below `count`; not evenly spaced ones, which would see the same place of every head."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[: ceil(count * share)].sort().values


def _equations(deltas: Tensor) -> tuple[Tensor, Tensor]:
    """A [n, n] and b [n] of one matrix, from its deltas [n, out, in].

    tr(τ_k τ_iᵀτ_i τ_jᵀ) is ⟨τ_k τ_iᵀ, τ_j τ_iᵀ⟩ and ⟨τ_k (τ_iᵀτ_i), τ_j⟩: products as small as the shorter side.
    """
    n, out, width = deltas.shape
    a, b = deltas.new_zeros(n, n), deltas.new_zeros(n)
    flat = deltas.reshape(n, -1)
    for i, own in enumerate(deltas):
        if out <= width:
            seen = (deltas @ own.mT).view(n, -1)
            overlap = seen @ seen.mT
        else:
            overlap = (deltas @ (own.mT @ own)).view(n, -1) @ flat.mT
        size = own.square().sum()
        if size > 0:
            a += overlap / size
            b += overlap[:, i] / size
    return a, b


def _solve(a: Tensor, b: Tensor) -> list[float]:
    n = len(b)
    ridge = RIDGE * float(a.trace()) / n or 1.0
    found = torch.linalg.solve(a + ridge * torch.eye(n, dtype=a.dtype), b + ridge / n)
    return _rounded(found.clamp(LOW, HIGH))


def _rounded(weights: Tensor) -> list[float]:
    """Four significant digits, as searched points have."""
    return [float(f"{w:.4g}") for w in weights.tolist()]


def _setting(names: Mapping[str, Part], weights: Mapping[Part, float]) -> Setting:
    """One source's setting: values of layers i of L stand at depths i/(L−1), so that each layer gets its own."""
    members: dict[tuple[bool, str], list[str]] = {}
    for name, part in names.items():
        members.setdefault((part.layer is not None, part.name), []).append(name)
    keys = sorted(members, key=lambda key: key[0])  # filters first: a list hands its first value to what is left
    groups = [
        Group(tuple(members[layered, name]), (f"{name}.",) if layered else (), (), layered) for layered, name in keys
    ]
    ordered = sorted(weights.items(), key=lambda each: each[0].layer or 0)
    values = {name: tuple(w for part, w in ordered if part.name == name) for _, name in keys}
    return tuple(Entry(word, values[keys[i][1]]) for word, i in arrange(Names(tuple(names)), groups))
