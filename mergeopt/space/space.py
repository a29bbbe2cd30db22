"""A search file's recipe becomes a space: branches of continuous dimensions, each point of them a plain recipe."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mergeopt.errors import InputError, did_you_mean
from mergeopt.recipe.document import Document, Route
from mergeopt.recipe.read import Reading, read_recipe
from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.schema import MethodSchema
from mergeopt.space.branch import Branch
from mergeopt.space.dimension import Dimension
from mergeopt.space.entries import Settings
from mergeopt.space.hole import Hole
from mergeopt.space.meaning import Meaning, Terms, Variable
from mergeopt.space.orders import Variant, named, variants
from mergeopt.space.outline import ShapeOf, outline
from mergeopt.space.parts import REST
from mergeopt.space.tree import changed, found
from mergeopt.space.writer import template

Schemas = Mapping[str, MethodSchema]


@dataclass(frozen=True)
class Space:
    """What the search may vary: one branch per combination of choices. `notices` name holes without effect."""

    branches: tuple[Branch, ...]
    notices: tuple[str, ...]


def parse_space(document: Document, *, schemas: Schemas, shape_of: ShapeOf) -> Space:
    """The space of a recipe with holes. A recipe without any is one branch of no dimensions.

    Args:
        document: The recipe part of a search file, or a recipe.
        schemas: Every known method.
        shape_of: The shape of a model, or of a chain's earlier step (`earlier_steps`) by its name; called once or more
            per model and branch.

    Raises:
        InputError: a hole against the grammar, a branch that is no valid recipe, tensors that filters cannot separate.
    """
    branches, notices = [], []
    for variant in variants(document, schemas):
        with named(variant.name):
            branch, said = _Branching(variant, schemas, shape_of).run()
        branches.append(branch)
        notices += said
    return Space(tuple(branches), tuple(dict.fromkeys(notices)))


def check_space(document: Document, *, schemas: Schemas) -> tuple[str, ...]:
    """What can be found in a recipe with holes without its models: the notices of every branch.

    Raises:
        InputError: a hole against the grammar, a branch that is no valid recipe.
    """
    notices: list[str] = []
    for variant in variants(document, schemas):
        with named(variant.name):
            notices += [said for step in variant.before for said in read_recipe(step, schemas).notices]
            branching = _Branching(variant, schemas, None)
            notices += [*branching.read().notices, *branching.notices]
    return tuple(dict.fromkeys(notices))


class _Branching:
    """One tree without choices becomes a branch."""

    def __init__(self, variant: Variant, schemas: Schemas, shape_of: ShapeOf | None) -> None:
        self.name, self.tree, self.document = variant.name, variant.last.data, variant.last
        self.schemas, self.shape_of = schemas, shape_of
        self.notices: list[str] = []

    def read(self) -> Reading:
        """The branch as a recipe, with the lowest number in every hole."""
        method = self.tree.get("merge_method") if isinstance(self.tree, dict) else None
        if isinstance(method, str) and method in self.schemas:
            self._leave_out_unread(self.schemas[method])
        numbers = changed(self.tree, lambda value, _: value.low if isinstance(value, Hole) else value)
        return read_recipe(replace(self.document, data=numbers), self.schemas)

    def run(self) -> tuple[Branch, list[str]]:
        reading = self.read()
        if reading.recipe.modules:
            where = self.document.where(("modules",))
            raise InputError("a recipe by module cannot be searched yet", where=where, remedy="use models: or slices:")
        assert self.shape_of is not None
        schema = self.schemas[reading.recipe.method]
        out = outline(reading.recipe, schema, self.shape_of)
        meaning = Meaning(Settings(self.tree, reading.recipe, schema, out, self.document), out, schema)
        self._check_inits(out.layers)
        variables = _used(meaning)
        self._name_idle(variables)
        dimensions = tuple(Dimension(v.name, v.hole.low, v.hole.high, v.init, v.hole.log) for v in variables)
        self._check_names(dimensions)
        indices = {variable: i for i, variable in enumerate(variables)}
        written = template(self.tree, meaning, indices, self.document)
        notices = [*reading.notices, *self.notices]
        return Branch(self.name, dimensions, written, meaning, indices), notices

    def _leave_out_unread(self, schema: MethodSchema) -> None:
        """Takes out settings with holes that the method never asks for, and checks the kind of the others."""
        gone: dict[Route, None] = {}
        for route, hole in found(self.tree, Hole):
            at = route.index("parameters")
            scope, key = route[: at + 1], str(route[at + 1])
            parameter = schema.parameters.get(key)
            if parameter is None and not any(key in other.parameters for other in self.schemas.values()):
                known = {name for other in self.schemas.values() for name in other.parameters}
                raise InputError(
                    f"no method reads {key!r}", where=self.document.where(route), remedy=did_you_mean(key, known)
                )
            if parameter is not None and parameter.kind != "float":
                raise InputError(
                    f"{key!r} is not a number that a range can hold",
                    where=self.document.where(route),
                    remedy=f"use {key}: {{choice: [{'true, false' if parameter.kind == 'bool' else '1, 2'}]}}",
                )
            why = None
            if parameter is None:
                why = f"{schema.name} does not read {key!r}"
            elif not parameter.per_source and len(scope) > 1 and scope[-3] in ("models", "sources"):
                why = f"{schema.name} reads {key!r} for the whole merge, not per model"
            elif schema.takes_base and self._is_base(scope):
                why = "the base is what deltas are taken from, it has no parameters"
            if why:
                gone[(*scope, key)] = None
                self._idle(hole, route, why)
        self.tree = _without(self.tree, gone)

    def _is_base(self, scope: Route) -> bool:
        owner = self.tree
        for step in scope[:-1]:
            owner = owner[step]
        base = self.tree.get("base_model")
        if base is None or "model" not in owner:
            return False
        where = self.document.where(scope)
        return ModelRef.parse(owner["model"], where) == ModelRef.parse(base, where)

    def _check_inits(self, layers: int) -> None:
        for route, hole in found(self.tree, Hole):
            if hole.depth == "layers" and len(hole.init) > 1 and len(hole.init) != layers:
                raise InputError(
                    f"init has {len(hole.init)} values, the output {layers} layers",
                    where=self.document.where((*route, "init")),
                    remedy="give one number, or one per layer",
                )

    def _name_idle(self, variables: list[Variable]) -> None:
        """A notice for every hole that no tensor depends on."""
        used = {variable.order for variable in variables}
        parts = {(variable.order, variable.part) for variable in variables}
        for route, hole in found(self.tree, Hole):
            if hole.order not in used and hole.outer != "each":
                self._idle(hole, route, "no tensor takes its value from it")
            elif isinstance(hole.parts, tuple):
                for part in hole.parts:
                    if (hole.order, part) not in parts:
                        self._idle(hole, (*route, "parts"), "no tensor is left for it", f"part {part!r}")
            if isinstance(hole.outer, Hole) and hole.outer.order not in used:
                self._idle(hole.outer, (*route, "outer"), "it is asked for no tensor outside the layers")

    def _idle(self, hole: Hole, route: Route, why: str, what: str = "this hole") -> None:
        if hole.share is not None and hole.route != route[: len(hole.route)]:
            return
        case = f" with {self.name}" if self.name else ""
        self.notices.append(f"{self.document.where(route)}: {what} has no effect{case}: {why}")

    def _check_names(self, dimensions: tuple[Dimension, ...]) -> None:
        for name, count in Counter(dimension.name for dimension in dimensions).items():
            if count > 1:
                raise InputError(
                    f"two dimensions would have the name {name!r}",
                    where=self.document.where(),
                    remedy="give one of the holes a share: name of its own",
                )


def _used(meaning: Meaning) -> list[Variable]:
    """Every variable that some coefficient depends on: holes in the order of the file, their parts as they appear."""
    parts: dict[tuple[int, str], int] = {}
    used: dict[Variable, None] = {}
    for key, parameter in meaning.schema.parameters.items():
        for place in meaning.outline.places:
            for source in meaning.outline.sources[place.part] if parameter.per_source else (None,):
                value = meaning.value(source, key, place)
                for variable, factor in value.slopes if isinstance(value, Terms) else ():
                    if factor != 0:
                        used[variable] = None
                        parts.setdefault((variable.order, variable.part), len(parts))

    def rank(variable: Variable) -> tuple[int, bool, bool, int, int]:
        index = variable.index if isinstance(variable.index, int) else 0
        outer = isinstance(variable.index, str)
        return variable.order, outer, variable.part == REST, parts[variable.order, variable.part], index

    return sorted(used, key=rank)


def _without(tree: Any, routes: Mapping[Route, None]) -> Any:
    """The tree without the values at `routes`, and without a ``parameters:`` that they leave empty."""
    if not routes:
        return tree

    def prune(value: Any, route: Route) -> Any:
        if isinstance(value, dict):
            kept = {key: prune(item, (*route, key)) for key, item in value.items() if (*route, key) not in routes}
            emptied = {key for key in kept if key == "parameters" and kept[key] == {} and value[key]}
            return {key: item for key, item in kept.items() if key not in emptied}
        if isinstance(value, list):
            return [prune(item, (*route, i)) for i, item in enumerate(value)]
        return value

    return prune(tree, ())
