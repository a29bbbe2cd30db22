"""The output's tensors as the space sees them: which slice's settings each one reads, how deep it stands, and the name
that filters see it under in each source.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from mergeopt.errors import InputError
from mergeopt.recipe.recipe import ModelRef, Recipe, Slice, Source
from mergeopt.recipe.schema import MethodSchema
from mergeopt.recipe.settings import depth_of
from mergeopt.recipe.shape import Shape, TensorInfo

ShapeOf = Callable[[ModelRef], Shape]


@dataclass(frozen=True, slots=True)
class Place:
    """One output tensor.

    Attributes:
        tensor: Its name in the output.
        part: Index of the slice whose settings it reads.
        depth: Its depth inside the slice, where gradient lists are read.
        span: Its depth in the whole output stack; None for a tensor of no layer.
        row: Its layer in the slice; None for a tensor of no layer, or of another stack than the slices speak of.
        names: Its name in every source of the slice.
        info: The tensor in the first source.
    """

    tensor: str
    part: int
    depth: float
    span: float | None
    row: int | None
    names: tuple[str, ...]
    info: TensorInfo


@dataclass(frozen=True)
class Outline:
    """Every output tensor, and each slice's first output layer and number of layers."""

    places: tuple[Place, ...]
    starts: tuple[int, ...]
    counts: tuple[int, ...]
    sources: tuple[tuple[int, ...], ...]  # per slice, the sources that a method merges: all but its base

    @property
    def layers(self) -> int:
        return sum(self.counts)

    @cached_property
    def by_tensor(self) -> Mapping[str, Place]:
        return {place.tensor: place for place in self.places}


def outline(recipe: Recipe, schema: MethodSchema, shape_of: ShapeOf) -> Outline:
    """Lays the output's tensors out.

    Raises:
        InputError: sources of a slice that give different numbers of layers, a range beyond a model's last layer.
    """
    shapes = {ref: shape_of(ref) for ref in recipe.models}
    donor = shapes[recipe.donor]
    stack = donor.main
    counts = tuple(_count(part, shapes, stack) for part in recipe.slices)
    starts = tuple(sum(counts[:i]) for i in range(len(counts)))
    merged = tuple(
        tuple(
            i
            for i, source in enumerate(part.sources)
            if not (schema.takes_base and source.model == recipe.base_of(part))
        )
        for part in recipe.slices
    )
    places: list[Place] = []
    for index, part in enumerate(recipe.slices):
        places += _layers(part, index, shapes, stack, starts[index], counts[index], sum(counts))
    others = {info.name: info for shape in shapes.values() for info in shape if info.outer or info.stack != stack}
    for info in others.values():
        index = 0 if donor.before_layers(info) else len(recipe.slices) - 1
        depth = depth_of(info.layer, donor.stacks.get(info.stack, 1))
        names = tuple(_own_name(info, shapes[source.model]) for source in recipe.slices[index].sources)
        places.append(Place(info.name, index, depth, None if info.outer else depth, None, names, info))
    numbers = tuple(place for place in places if "float" in place.info.dtype)
    return Outline(numbers, starts, counts, merged)


def layer_range(source: Source, shape: Shape, stack: str) -> tuple[int, int]:
    """The layers that a source gives: [first, last)."""
    layers = shape.stacks.get(stack, 0)
    first, last = source.layer_range or (0, layers)
    if last > layers:
        raise InputError(
            f"layer_range [{first}, {last}] goes beyond {str(source.model)!r}, which has {layers} layers",
            remedy=f"the last layer_range may end at {layers}",
        )
    return first, last


def _count(part: Slice, shapes: Mapping[ModelRef, Shape], stack: str) -> int:
    ranges = [layer_range(source, shapes[source.model], stack) for source in part.sources]
    counts = {last - first for first, last in ranges}
    if len(counts) > 1:
        listed = ", ".join(f"{s.model} gives {b - a}" for s, (a, b) in zip(part.sources, ranges, strict=True))
        raise InputError(f"models of different depth cannot be merged: {listed} layers", remedy="use slices:")
    return counts.pop()


def _layers(
    part: Slice, index: int, shapes: Mapping[ModelRef, Shape], stack: str, start: int, count: int, layers: int
) -> list[Place]:
    firsts = [layer_range(source, shapes[source.model], stack)[0] for source in part.sources]
    rows: list[dict[str, TensorInfo]] = [{} for _ in range(count)]
    for source, first in zip(part.sources, firsts, strict=True):
        for info in shapes[source.model]:
            if info.stack == stack and info.layer is not None and first <= info.layer < first + count:
                rows[info.layer - first].setdefault(info.part, info)
    return [
        Place(
            f"{stack}.{start + row}.{name}",
            index,
            depth_of(row, count),
            depth_of(start + row, layers),
            row,
            tuple(f"{stack}.{first + row}.{name}" for first in firsts),
            info,
        )
        for row, infos in enumerate(rows)
        for name, info in infos.items()
    ]


def _own_name(info: TensorInfo, shape: Shape) -> str:
    """The tensor's name in a source: a tied head is read from the embedding matrix."""
    embedding = shape.embedding
    if info.name in shape.tensors or embedding is None or not info.outer or info.shape != embedding.shape:
        return info.name
    return embedding.name
