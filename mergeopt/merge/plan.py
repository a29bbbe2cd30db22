"""What will be computed, tensor by tensor, before a byte of weights is read.

`lay_out` says which tensors go into which (it depends on the models and the recipe's structure); `fill` adds the
coefficients (it depends on the recipe's numbers). A search lays out once and fills for every candidate. Both are
pure and linear in the number of tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from mergeopt.checkpoint.header import item_size
from mergeopt.errors import InputError
from mergeopt.merge.layout import FLOATS, Facts, Input, Layout, LeftOut, Slot, lay_out
from mergeopt.recipe.recipe import ModelRef, Recipe
from mergeopt.recipe.schema import REQUIRED, MethodSchema, ParameterSchema
from mergeopt.recipe.settings import Scalar, resolve


@dataclass(frozen=True, slots=True)
class Job:
    """One output tensor, ready to compute.

    `coefficients` has, by parameter name, a tuple with one value per input (per-source parameters) or one value.
    `verbatim`: copied. Several inputs are then no numbers to merge (integers, booleans), and must be identical.
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    inputs: tuple[Input, ...]
    base: Input | None
    coefficients: Mapping[str, Any]
    verbatim: bool = False

    @property
    def reads(self) -> tuple[Input, ...]:
        return self.inputs if self.base is None else (*self.inputs, self.base)


@dataclass(frozen=True)
class Plan:
    """The whole merge."""

    method: str
    jobs: tuple[Job, ...]
    left_out: tuple[LeftOut, ...]
    picked: tuple[int, ...] | None
    untied: bool
    seed: int

    @property
    def nbytes(self) -> int:
        """Bytes of the output's tensors."""
        return sum(prod(job.shape) * item_size(job.dtype) for job in self.jobs)


def make_plan(recipe: Recipe, models: Mapping[ModelRef, Facts], schema: MethodSchema) -> Plan:
    """The plan of a recipe. Raises InputError for models that do not fit together and settings without a value."""
    return fill(lay_out(recipe, models, schema), recipe, schema)


def fill(layout: Layout, recipe: Recipe, schema: MethodSchema) -> Plan:
    """The layout with the recipe's numbers.

    Raises:
        InputError: a required parameter has no value for some tensor, or one the method cannot use.
    """
    jobs = []
    for slot in layout.slots:
        coefficients = {} if slot.copied else {p.name: coefficient(p, slot, recipe) for p in schema.parameters.values()}
        if coefficients:
            schema.check(slot.tensor, coefficients)
        jobs.append(
            Job(
                slot.tensor,
                slot.shape,
                slot.dtype,
                tuple(item for _, item in slot.sources),
                slot.base,
                coefficients,
                verbatim=slot.copied or slot.dtype not in FLOATS,
            )
        )
    return Plan(recipe.method, tuple(jobs), layout.left_out, layout.picked, layout.untied, recipe.seed)


def coefficient(parameter: ParameterSchema, slot: Slot, recipe: Recipe) -> Any:
    """A parameter's value for one output tensor: a tuple over the slot's sources, or one value.

    The first level that gives a value wins: source, slice, recipe, default. Filters see the input's name for values per
    source and the output's name for values of the merge.
    """
    part = recipe.slices[slot.part]
    if not parameter.per_source:
        value = _first(parameter, (part.parameters, recipe.parameters), slot.tensor, slot.depth)
        return value if value is not None else _default(parameter, slot, "the merge")
    values = []
    for index, item in slot.sources:
        own = part.sources[index].parameters if index < len(part.sources) else {}
        value = _first(parameter, (own, part.parameters, recipe.parameters), item.tensor, slot.depth)
        values.append(value if value is not None else _default(parameter, slot, item.model))
    return tuple(values)


def _first(parameter: ParameterSchema, levels: tuple[Mapping[str, Any], ...], tensor: str, depth: float) -> Scalar:
    for level in levels:
        if parameter.name in level:
            value = resolve(level[parameter.name], tensor, depth)
            if value is not None:
                return value
    return None


def _default(parameter: ParameterSchema, slot: Slot, whose: object) -> Any:
    if parameter.default is REQUIRED:
        raise InputError(
            f"{parameter.name!r} of {whose} has no value for tensor {slot.tensor!r}",
            remedy="add a last entry without a filter: - value: 0.5",
        )
    return parameter.default


def unmatched_filters(layout: Layout, recipe: Recipe) -> list[str]:
    """Filters that match no tensor they could apply to, in words."""
    found = []
    for index, part in enumerate(recipe.slices):
        slots = [slot for slot in layout.slots if slot.part == index]
        for i, source in enumerate(part.sources):
            names = [item.tensor for slot in slots for j, item in slot.sources if j == i]
            found += _unmatched(source.parameters, names or [slot.tensor for slot in slots], str(source.model))
        found += _unmatched(part.parameters, [slot.tensor for slot in slots], f"slice {index}")
    found += _unmatched(recipe.parameters, [slot.tensor for slot in layout.slots], "the top-level parameters")
    return found


def _unmatched(settings: Mapping[str, Any], names: list[str], whose: str) -> list[str]:
    return [
        f"{name!r} of {whose}: filter {entry.filter!r} matches no tensor; `mergeopt explain` lists them"
        for name, setting in settings.items()
        for entry in setting
        if not any(entry.matches(tensor) for tensor in names)
    ]
