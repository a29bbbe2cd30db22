"""A plain recipe becomes a search file: the numbers of the named parameters become holes that start where they were."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from mergeopt.errors import InputError, did_you_mean
from mergeopt.recipe.document import Document, Route
from mergeopt.recipe.recipe import ModelRef
from mergeopt.space.hole import is_hole, number
from mergeopt.space.tree import changed

Range = tuple[float, float]

# How far to look around a number that somebody wrote; a number beyond widens its range.
RANGES: Mapping[str, Callable[[float], Range]] = MappingProxyType(
    {
        "weight": lambda value: (min(0.0, 2 * value), max(1.5, 2 * value)),
        "density": lambda value: (min(0.05, value), max(1.0, value)),
        "t": lambda value: (min(0.0, value), max(1.0, value)),
        "lambda": lambda value: (min(0.3, value), max(2.0, value)),
    }
)
DENSITY = 1.0  # mergekit's default: every model keeps its whole delta


def free(document: Document, keys: Sequence[str]) -> Document:
    """The recipe with every number of the parameters `keys` as a hole; a density that is not given is added.

    In ``models:`` a gradient list becomes control points of a hole with depth, and tensors of no layer keep the list's
    first value, as mergekit has it. In ``slices:``, where lists restart in each slice, its items become holes.

    Raises:
        InputError: a parameter whose range is not known, or one that the recipe has no number of.
    """
    for key in keys:
        if key not in RANGES:
            hint = did_you_mean(key, tuple(RANGES))
            raise InputError(f"cannot free {key!r}", where=document.where(), remedy=hint)
    data = document.data
    if not isinstance(data, dict):
        raise InputError("is not a recipe", where=document.where(), remedy="a recipe is a mapping with merge_method:")
    if "density" in keys:
        data = _with_densities(data)
    freed: set[str] = set()
    sliced = bool(data.get("slices"))

    def open_up(value: Any, route: Route) -> Any:
        if len(route) < 2 or route[-2] != "parameters" or route[-1] not in keys:
            return value
        new = _opened(value, str(route[-1]), sliced)
        if new != value:
            freed.add(str(route[-1]))
        return new

    data = changed(data, open_up)
    for key in keys:
        if key not in freed:
            raise InputError(
                f"the recipe has no number for {key!r}", where=document.where(), remedy=f"give {key}: under parameters:"
            )
    return replace(document, data=data)


def _opened(value: Any, key: str, sliced: bool) -> Any:
    """A setting with its numbers as holes."""
    if is_hole(value):
        return value
    if isinstance(value, dict):
        return {name: _opened(item, key, sliced) if name == "value" else item for name, item in value.items()}
    if isinstance(value, list):
        numbers = [number(item) for item in value]
        plain = [item for item in numbers if item is not None]
        if len(plain) < len(value) or not plain:
            return [_opened(item, key, sliced) for item in value]
        if sliced:
            return [_hole(key, [item]) for item in plain]
        return _hole(key, plain) | ({"outer": plain[0]} if len(plain) > 1 else {})
    found = number(value)
    return value if found is None else _hole(key, [found])


def _hole(key: str, values: list[float]) -> dict[str, Any]:
    low = min(RANGES[key](value)[0] for value in values)
    high = max(RANGES[key](value)[1] for value in values)
    if len(values) == 1:
        return {"range": [low, high], "init": values[0]}
    return {"range": [low, high], "init": values, "depth": len(values)}


def _with_densities(data: dict[str, Any]) -> dict[str, Any]:
    """Every merged model with a density; nothing is added where some scope gives one already."""
    if "density" in (data.get("parameters") or {}):
        return data
    base = data.get("base_model")

    def with_density(source: Any) -> Any:
        if not isinstance(source, dict) or "model" not in source or _same(source["model"], base):
            return source
        parameters = source.get("parameters") or {}
        if not isinstance(parameters, dict) or "density" in parameters:
            return source
        return source | {"parameters": {**parameters, "density": DENSITY}}

    result = dict(data)
    if isinstance(data.get("models"), list):
        result["models"] = [with_density(model) for model in data["models"]]
    if isinstance(data.get("slices"), list):
        result["slices"] = [
            part
            if "density" in (part.get("parameters") or {})
            else part | {"sources": [with_density(source) for source in part.get("sources") or []]}
            for part in data["slices"]
        ]
    return result


def _same(model: Any, base: Any) -> bool:
    return base is not None and ModelRef.parse(model, "") == ModelRef.parse(base, "")
