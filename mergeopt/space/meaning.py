"""What a hole means, tensor by tensor, straight from its definition.

Every value that a search may set is affine in the point: control points stand at depths i/(n−1) over the output stack
and layers between two of them take (1−f)·v_i + f·v_{i+1}. The written recipe must say the same; tests hold it to that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from statistics import fmean

from mergeopt.recipe.schema import MethodSchema
from mergeopt.recipe.settings import Scalar, interpolate
from mergeopt.space.dimension import rounded
from mergeopt.space.entries import Entry, Settings
from mergeopt.space.hole import Hole
from mergeopt.space.outline import Outline, Place
from mergeopt.space.parts import part_of


@dataclass(frozen=True, slots=True)
class Variable:
    """One number of a hole: its part and its control point, or the outer tensor it is for."""

    order: int  # of the hole
    part: str
    index: int | str | None
    hole: Hole = field(compare=False, repr=False)
    label: str = field(compare=False)
    start: float = field(compare=False)

    @property
    def name(self) -> str:
        part = f"[{self.part}]" if self.part else ""
        return f"{self.hole.share or self.label}{part}" + ("" if self.index is None else f".{self.index}")

    @property
    def init(self) -> float:
        given = self.hole.init
        if isinstance(self.index, int) and len(given) > 1:
            return rounded(given[self.index], self.hole.low, self.hole.high)
        return middle(self.hole, self.start)


@dataclass(frozen=True, slots=True)
class Affine:
    """constant + Σ factor · point[dimension]: how one coefficient depends on the point."""

    constant: float
    slopes: tuple[tuple[int, float], ...] = ()

    def at(self, point: Sequence[float]) -> float:
        return self.constant + sum(factor * point[index] for index, factor in self.slopes)


@dataclass(frozen=True, slots=True)
class Terms:
    """constant + Σ factor · variable"""

    constant: float
    slopes: tuple[tuple[Variable, float], ...] = ()

    def over(self, indices: Mapping[Variable, int]) -> Affine:
        """The same over a branch's dimensions; a variable that is none of them has no effect and stays at its init."""
        constant = self.constant + sum(f * v.init for v, f in self.slopes if v not in indices)
        return Affine(constant, tuple((indices[v], f) for v, f in self.slopes if v in indices))


def middle(hole: Hole, start: float) -> float:
    """One number for the hole's init: the mean of a list."""
    return rounded(hole.clip(fmean(hole.init) if hole.init else start), hole.low, hole.high)


@dataclass(frozen=True)
class Meaning:
    """The value of every (source, parameter, output tensor)."""

    settings: Settings
    outline: Outline
    schema: MethodSchema

    def value(self, source: int | None, key: str, place: Place) -> Terms | Scalar:
        """What `source` of the place's slice (None: the merge) gets for parameter `key`: terms, or a plain value."""
        name = place.tensor if source is None else place.names[source]
        for scope in self.settings.levels(place.part, source):
            for entry in self.settings.entries(scope, key):
                if entry.matches(name):
                    return self.of_entry(entry, name, place)
        default = self.schema.parameters[key].default
        return default if isinstance(default, float | int | bool | str) else None

    def of_entry(self, entry: Entry, name: str, place: Place) -> Terms | Scalar:
        """What an entry that matches `name` gives it."""
        hole = entry.hole
        if hole is not None:
            return self._of_hole(entry, hole, name, place)
        if not entry.holes:
            return interpolate(entry.values, place.depth)  # type: ignore[arg-type]
        return _between(len(entry.values), lambda i: item_of(entry, i), place.depth)

    def points(self, entry: Entry, hole: Hole, part: str) -> list[Terms]:
        """The control points of one part of a hole with depth."""
        return [_point(entry, hole, part, i) for i in range(self._count(hole))]

    def along(self, entry: Entry, hole: Hole, part: str, span: float) -> Terms:
        """The value of one part of a hole with depth, at depth `span` of the output stack."""
        return _between(self._count(hole), lambda i: _point(entry, hole, part, i), span)

    def _count(self, hole: Hole) -> int:
        return self.outline.layers if hole.depth == "layers" else hole.depth or 1

    def _of_hole(self, entry: Entry, hole: Hole, name: str, place: Place) -> Terms:
        part = part_of(hole.parts, name, place.info)
        if place.span is None:
            if isinstance(hole.outer, Hole):
                index = None if hole.outer.share else "outer"
                return _point(entry, hole.outer, "", index)
            if hole.outer == "each":
                return _point(entry, hole, "", f"outer[{name}]")
            if isinstance(hole.outer, float):
                return Terms(hole.outer)
            if hole.depth is not None:
                return Terms(middle(hole, entry.start))
        if hole.depth is None or place.span is None:
            return _point(entry, hole, part, None)
        return self.along(entry, hole, part, place.span)


def item_of(entry: Entry, index: int) -> Terms:
    """One item of a gradient list that holds holes."""
    value = entry.values[index]
    if isinstance(value, Hole):
        return _point(entry, value, "", None if value.share else index)
    assert isinstance(value, float | int)
    return Terms(float(value))


def _point(entry: Entry, hole: Hole, part: str, index: int | str | None) -> Terms:
    return Terms(0.0, ((Variable(hole.order, part, index, hole, entry.label, entry.start), 1.0),))


def _between(count: int, point: Callable[[int], Terms], depth: float) -> Terms:
    """Linear in depth between `count` points at i/(n−1)."""
    place = depth * (count - 1)
    low = min(floor(place), count - 1)
    fraction = place - low
    if fraction == 0:
        return point(low)
    a, b = point(low), point(low + 1)
    together: dict[Variable, float] = {}
    for terms, share in ((a, 1 - fraction), (b, fraction)):
        for variable, factor in terms.slopes:
            together[variable] = together.get(variable, 0.0) + share * factor
    return Terms((1 - fraction) * a.constant + fraction * b.constant, tuple(together.items()))
