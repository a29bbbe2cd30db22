"""One combination of choices: dimensions, and the recipe that a point stands for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mergeopt.recipe.settings import Scalar
from mergeopt.space.dimension import Dimension, rounded
from mergeopt.space.levels import Level, levels_of
from mergeopt.space.meaning import Affine, Meaning, Terms, Variable
from mergeopt.space.writer import filled


@dataclass(frozen=True)
class Branch:
    """A space of numbers only. `name` says what was chosen: ``merge_method=ties, normalize=true``, or nothing."""

    name: str
    dimensions: tuple[Dimension, ...]
    _template: Any = field(repr=False)
    _meaning: Meaning = field(repr=False)
    _indices: dict[Variable, int] = field(repr=False)

    @cached_property
    def init(self) -> tuple[float, ...]:
        """The point to start at."""
        return tuple(dimension.init for dimension in self.dimensions)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Directions in which the dimensions move together, coarse to fine; the last level moves each alone."""
        return levels_of(self._meaning, tuple(self._indices))

    @cached_property
    def thresholds(self) -> tuple[str, ...]:
        """The dimensions that no gradient moves: an epsilon, a tolerance."""
        found = []
        for variable, index in self._indices.items():
            route = variable.hole.route
            if not self._meaning.schema.parameters[str(route[route.index("parameters") + 1])].smooth:
                found.append(self.dimensions[index].name)
        return tuple(found)

    def rounded(self, point: Sequence[float]) -> tuple[float, ...]:
        """The point as it is written: four significant digits, inside the ranges."""
        return tuple(rounded(value, d.low, d.high) for value, d in zip(point, self.dimensions, strict=True))

    def recipe(self, point: Sequence[float]) -> dict[str, Any]:
        """The recipe at a point, as plain mergekit data in the order of the user's file."""
        data = filled(self._template, self.rounded(point))
        assert isinstance(data, dict)
        return data

    def affine(self, source: int | None, key: str, tensor: str) -> Affine | Scalar:
        """How a coefficient depends on the (rounded) point; a plain value where no hole reaches it.

        Args:
            source: Index in the sources of the tensor's slice; None for a parameter of the whole merge.
            key: The parameter.
            tensor: The output tensor.
        """
        value = self._meaning.value(source, key, self._meaning.outline.by_tensor[tensor])
        return value.over(self._indices) if isinstance(value, Terms) else value

    def intended(self, point: Sequence[float], source: int | None, key: str, tensor: str) -> Scalar:
        """The value of a coefficient at a point, by the holes' definition and not by what is written."""
        value = self.affine(source, key, tensor)
        return value.at(self.rounded(point)) if isinstance(value, Affine) else value
