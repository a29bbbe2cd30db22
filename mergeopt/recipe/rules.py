"""What a method demands of a recipe's sources: how many, which base, which settings."""

from collections.abc import Iterable
from dataclasses import replace

from mergeopt.errors import InputError
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


def of_base_alone(recipe: Recipe, schema: MethodSchema) -> bool:
    """Does a method that adds deltas to a base name no other model? mergekit's result then is the base, copied."""
    models = {source.model for part in recipe.slices for source in part.sources}
    return schema.needs_base and schema.max_sources is None and schema.min_sources <= 1 and models == {recipe.base}


def copied(recipe: Recipe) -> Recipe:
    """The same models and layers, passed through as they are."""
    slices = tuple(Slice(tuple(replace(source, parameters={}) for source in part.sources)) for part in recipe.slices)
    return replace(recipe, method="passthrough", base=None, slices=slices, parameters={})


def check_sources(recipe: Recipe, schema: MethodSchema, where: str) -> None:
    """The number of sources, the base, required parameters.

    Raises:
        InputError: a missing base, too few or too many sources, a required parameter that no level gives.
    """
    if schema.needs_base and recipe.base is None:
        raise InputError(
            f"{schema.name} needs base_model",
            where=where,
            remedy="add base_model: <what the models were tuned from>",
        )
    for part in recipe.slices:
        models = [source.model for source in part.sources]
        others = [model for model in models if not (schema.takes_base and model == recipe.base)]
        if schema.takes_base and recipe.base and not recipe.whole_models and recipe.base not in models:
            raise InputError(
                f"{schema.name} finds base_model {str(recipe.base)!r} in no source of a slice",
                where=where,
                remedy=_source_remedy(schema)
                if schema.max_sources == 1
                else "list the base as a source of every slice",
            )
        _check_number(len(others), schema, where)
        if schema.max_sources != 1 or schema.takes_base:
            _check_distinct(models, where)
        for parameter in schema.parameters.values():
            _check_required(parameter, part, recipe, schema, where)


def _check_number(n: int, schema: MethodSchema, where: str) -> None:
    low, high = schema.min_sources, schema.max_sources
    if n < low or (high is not None and n > high):
        wants = f"{low}" if low == high else f"at least {low}" if high is None else f"{low} to {high}"
        plural = "" if (high or low) == 1 else "s"
        beside = " beside base_model" if schema.takes_base else ""
        raise InputError(
            f"{schema.name} takes {wants} model{plural}{beside}, given {n}",
            where=where,
            remedy=_source_remedy(schema),
        )


def _source_remedy(schema: MethodSchema) -> str:
    if schema.max_sources == 1 and schema.takes_base:
        # mergekit before 2024-01-22 (de87a04) took a third base for a sign to swap the pair
        return (
            f"{schema.name} joins two models, of which base_model is one: where t = 0 "
            "(for recipes from before 2024 with a third model as base, the second of the two)"
        )
    return "add or remove models"


def _check_distinct(models: Iterable[ModelRef], where: str) -> None:
    seen: set[ModelRef] = set()
    for model in models:
        if model in seen:
            raise InputError(f"model {str(model)!r} is listed twice", where=where, remedy="give it one weight instead")
        seen.add(model)


def _check_required(parameter: ParameterSchema, part: Slice, recipe: Recipe, schema: MethodSchema, where: str) -> None:
    if parameter.default is not REQUIRED or parameter.name in recipe.parameters or parameter.name in part.parameters:
        return
    if not parameter.per_source:
        raise InputError(
            f"{schema.name} needs {parameter.name!r}",
            where=where,
            remedy=f"add it under parameters:, e.g. {parameter.name}: 0.5",
        )
    for source in part.sources:
        exempt = schema.takes_base and source.model == recipe.base
        if parameter.name not in source.parameters and not exempt:
            raise InputError(
                f"{schema.name} needs {parameter.name!r} for {str(source.model)!r}",
                where=where,
                remedy=f"add it under its parameters:, e.g. {parameter.name}: 0.5",
            )
