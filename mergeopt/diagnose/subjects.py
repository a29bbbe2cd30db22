"""Whom a diagnosis is about: the models, their base, other candidates for it, and the tensors that can be compared.

Everything here comes from headers. What does not fit (a tensor that one model lacks, another shape) is a finding, not
an error: to hear of it is what a diagnosis is asked for.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

from mergeopt.errors import InputError
from mergeopt.merge.layout import FLOATS
from mergeopt.merge.names import is_buffer, is_embedding, is_head
from mergeopt.merge.sources import Checkpoints, open_models
from mergeopt.recipe.recipe import ModelRef, Recipe
from mergeopt.recipe.shape import Shape, TensorInfo
from mergeopt.space.parts import part_of

PARTS = ("embed", "attention", "mlp", "norm", "other")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a model a tensor stands: one of `PARTS`, and its layer, None for a tensor of no layer."""

    part: str
    layer: int | None


@dataclass(frozen=True, slots=True)
class Common:
    """A tensor that every model has: its name, where it stands, and the shape that all share.

    Of a vocabulary matrix whose number of rows differs `shape` has the rows that all have.
    """

    name: str
    place: Place
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Subjects:
    """The models of a diagnosis, opened by their headers.

    `reference` is what differences are taken from: the base, or without one the first model. `candidates` are further
    models that may be the true base.
    """

    models: tuple[ModelRef, ...]
    base: ModelRef | None
    candidates: tuple[ModelRef, ...]
    checkpoints: Checkpoints

    @property
    def reference(self) -> ModelRef:
        return self.models[0] if self.base is None else self.base

    @cached_property
    def others(self) -> tuple[ModelRef, ...]:
        """Everyone but the reference: the columns of all sums. Models first."""
        return tuple(ref for ref in (*self.models, *self.candidates) if ref != self.reference)

    @cached_property
    def pairs(self) -> tuple[tuple[ModelRef, ModelRef], ...]:
        return tuple((a, b) for i, a in enumerate(self.models) for b in self.models[i + 1 :])

    def shape(self, ref: ModelRef) -> Shape:
        return self.checkpoints[ref].shape

    @property
    def layers(self) -> int:
        return self.shape(self.reference).layers

    @property
    def width(self) -> int | None:
        """Size of the hidden state, as the embeddings say it."""
        found = self.shape(self.reference).embedding
        return None if found is None else found.shape[-1]

    @cached_property
    def common(self) -> tuple[Common, ...]:
        """The floating-point tensors that every model has, in the reference's order."""
        return tuple(self._common())

    def _common(self) -> Iterator[Common]:
        shapes = [self.shape(ref).tensors for ref in self.others]
        for info in self.shape(self.reference):
            found = [tensors.get(info.name) for tensors in shapes]
            if info.dtype not in FLOATS or is_buffer(info):
                continue
            if all(other is not None and other.dtype in FLOATS for other in found):
                shape = _shared_shape(info, [other.shape for other in found if other is not None])
                if shape is not None:
                    yield Common(info.name, place_of(info), shape)


def of_recipe(recipe: Recipe, near: Path | None, bases: Sequence[ModelRef] = ()) -> Subjects:
    """The subjects of a recipe; `bases` come before its own, which is then another candidate."""
    listed = (*bases, *([recipe.base] if recipe.base else []))
    return subjects([ref for ref in recipe.models if ref not in listed], listed, near)


def subjects(models: Sequence[ModelRef], bases: Sequence[ModelRef], near: Path | None) -> Subjects:
    """Opens the models, headers only; the first of `bases` is the base, the others are candidates for it.

    Raises:
        InputError: nothing to compare, a model that cannot be found or read.
    """
    distinct, listed = tuple(dict.fromkeys(models)), tuple(dict.fromkeys(bases))
    distinct = tuple(ref for ref in distinct if ref not in listed)
    if not distinct or len(distinct) + len(listed) < 2:
        raise InputError(
            f"{len(distinct) + len(listed)} model to compare with nothing",
            remedy="give a recipe, or models and their base: mergeopt diagnose zoo/a zoo/b --base zoo/base",
        )
    opened = open_models([*distinct, *listed], near, listed[0] if listed else None)
    return Subjects(distinct, listed[0] if listed else None, listed[1:], opened)


def place_of(info: TensorInfo) -> Place:
    """Where a tensor stands, read off its name."""
    if is_embedding(info.name) or is_head(info.name):
        return Place("embed", info.layer)
    block = part_of("blocks", info.name, info)
    return Place(block if block in PARTS else "other", info.layer)


def is_vocabulary(name: str) -> bool:
    """Does the matrix have a row per token?"""
    return is_embedding(name) or is_head(name)


def by_layer(common: Iterable[Common], part: str) -> Mapping[int, list[Common]]:
    """The tensors of a part by their layer."""
    found: dict[int, list[Common]] = {}
    for tensor in common:
        if tensor.place.part == part and tensor.place.layer is not None:
            found.setdefault(tensor.place.layer, []).append(tensor)
    return found


def _shared_shape(info: TensorInfo, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    if all(shape == info.shape for shape in shapes):
        return info.shape
    if is_vocabulary(info.name) and all(shape[1:] == info.shape[1:] for shape in shapes):
        return (min(info.shape[0], *(shape[0] for shape in shapes)), *info.shape[1:])
    return None


def labels(refs: Sequence[ModelRef]) -> dict[ModelRef, str]:
    """Short names that tell the models apart: the last part of a path where that does."""
    short = {ref: ref.path.rstrip("/").rsplit("/", 1)[-1] for ref in refs}
    taken = list(short.values())
    return {ref: name if taken.count(name) == 1 else str(ref) for ref, name in short.items()}
