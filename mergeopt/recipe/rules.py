"""What a method demands of a recipe's sources: how many, which base, which settings."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from mergeopt.errors import InputError
from mergeopt.recipe.document import Route
from mergeopt.recipe.recipe import ModelRef, Recipe, Slice, Source
from mergeopt.recipe.schema import REQUIRED, MethodSchema, ParameterSchema


def with_base_as_source(recipe: Recipe, schema: MethodSchema) -> Recipe:
    """An unlisted base is one more source of a `models:` recipe, as in mergekit: without deltas it changes the sum."""
    if recipe.base is None or schema.takes_base or not recipe.whole_models:
        return recipe
    part = recipe.slices[0]
    if any(source.model == recipe.base for source in part.sources):
        return recipe
    return replace(recipe, slices=(replace(part, sources=(*part.sources, Source(recipe.base))),))


def with_common_base(recipe: Recipe) -> Recipe:
    """A base that every slice has stands at the recipe, and at no slice."""
    bases = {recipe.base_of(part) for part in recipe.slices}
    common = recipe.base if recipe.base in bases or len(bases) > 1 else next(iter(bases), None)
    parts = tuple(replace(part, base=None) if part.base == common else part for part in recipe.slices)
    return replace(recipe, base=common, slices=parts)


def of_base_alone(recipe: Recipe, schema: MethodSchema) -> bool:
    """Does a method that adds deltas to a base name no other model? mergekit's result then is the base, copied."""
    models = {source.model for part in recipe.slices for source in part.sources}
    return schema.needs_base and schema.max_sources is None and schema.min_sources <= 1 and models == {recipe.base}


def copied(recipe: Recipe) -> Recipe:
    """The same models and layers, passed through as they are."""
    slices = tuple(Slice(tuple(replace(source, parameters={}) for source in part.sources)) for part in recipe.slices)
    return replace(recipe, method="passthrough", base=None, slices=slices, parameters={})


def check_sources(recipe: Recipe, schema: MethodSchema, place: Route, where: Callable[[Route], str]) -> None:
    """The number of sources, the base, required parameters.

    Args:
        recipe: As read.
        schema: Its method.
        place: The route of its models or slices.
        where: Spells a route with file and line.

    Raises:
        InputError: a missing base, too few or too many sources, a required parameter that no level gives.
    """
    for index, part in enumerate(recipe.slices):
        base = recipe.base_of(part)
        here: Route = place if recipe.whole_models else (*place, index)
        if schema.needs_base and base is None:
            remedy = "add base_model: <what the models were tuned from>"
            if schema.max_sources == 1:
                remedy = "add base_model: <one of the two models>, where t = 0"
            raise InputError(f"{schema.name} needs base_model", where=where(("base_model",)), remedy=remedy)
        models = [source.model for source in part.sources]
        others = [model for model in models if not (schema.takes_base and model == base)]
        if schema.takes_base and base and not recipe.whole_models and base not in models:
            raise InputError(
                f"{schema.name} finds base_model {str(base)!r} in no source of a slice",
                where=where(here),
                remedy=_pair_remedy(schema, base, models) or "list the base as a source of every slice",
            )
        _check_number(others, base, schema, where(here))
        if schema.max_sources != 1 or schema.takes_base:
            _check_distinct(models, where(here))
        sources: Route = here if recipe.whole_models else (*here, "sources")
        for parameter in schema.parameters.values():
            _check_required(parameter, part, recipe, schema, sources, where)


def spelled_twice(recipe: Recipe) -> list[tuple[str, str]]:
    """Pairs of models whose names differ in case, slashes or a final slash alone: mergekit takes them for two."""
    seen: dict[str, ModelRef] = {}
    pairs = []
    for ref in recipe.models:
        folded = re.sub(r"[\\/]+", "/", str(ref).lower()).removeprefix("./").rstrip("/")
        other = seen.setdefault(folded, ref)
        if other != ref:
            pairs.append((str(other), str(ref)))
    return pairs


def _check_number(others: list[ModelRef], base: ModelRef | None, schema: MethodSchema, where: str) -> None:
    n, low, high = len(others), schema.min_sources, schema.max_sources
    if n == 0 and low == 1 and high is None and schema.needs_base:
        return  # mergekit gives the base back
    if n < low or (high is not None and n > high):
        wants = f"{low}" if low == high else f"at least {low}" if high is None else f"{low} to {high}"
        plural = "" if (high or low) == 1 else "s"
        beside = " beside base_model" if schema.takes_base else ""
        raise InputError(
            f"{schema.name} takes {wants} model{plural}{beside}, given {n}",
            where=where,
            remedy=_pair_remedy(schema, base, others) or "add or remove models",
        )


def _pair_remedy(schema: MethodSchema, base: ModelRef | None, models: list[ModelRef]) -> str | None:
    if schema.max_sources != 1 or not schema.takes_base:
        return None
    text = f"{schema.name} joins two models, of which base_model is one: where t = 0"
    alike = [model for model in models if base is not None and _last(model) == _last(base)]
    if alike and base not in models:
        return f"{text} (the source {str(alike[0])!r} has nearly its name: spell it in one way)"
    if base is not None and len(models) == 2 and base not in models:
        # until 2024-01-22 (de87a04) mergekit took a third base for a sign to swap the pair
        text += f" (recipes from before 2024 mean the second one: base_model: {models[1]})"
    return text


def _last(model: ModelRef) -> str:
    return re.split(r"[\\/]+", str(model).lower().rstrip("\\/"))[-1]


def _check_distinct(models: Iterable[ModelRef], where: str) -> None:
    seen: set[ModelRef] = set()
    for model in models:
        if model in seen:
            raise InputError(f"model {str(model)!r} is listed twice", where=where, remedy="give it one weight instead")
        seen.add(model)


def _check_required(
    parameter: ParameterSchema,
    part: Slice,
    recipe: Recipe,
    schema: MethodSchema,
    place: Route,
    where: Callable[[Route], str],
) -> None:
    if parameter.default is not REQUIRED or parameter.name in recipe.parameters or parameter.name in part.parameters:
        return
    if not parameter.per_source:
        raise InputError(
            f"{schema.name} needs {parameter.name!r}",
            where=where(("parameters",)),
            remedy=f"add it under parameters:, e.g. {parameter.name}: 0.5",
        )
    for i, source in enumerate(part.sources):
        exempt = schema.takes_base and source.model == recipe.base_of(part)
        if parameter.name not in source.parameters and not exempt:
            raise InputError(
                f"{schema.name} needs {parameter.name!r} for {str(source.model)!r}",
                where=where((*place, i)),
                remedy=f"add it under its parameters:, e.g. {parameter.name}: 0.5",
            )
