"""Settings with holes, as entries: mergekit's first-match-wins list, where a value may be a `Hole`.

A scope is the route of a ``parameters:`` mapping in the file; the scopes that a tensor asks, nearest first, are the
source's, the slice's and the recipe's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mergeopt.recipe.document import Document, Route
from mergeopt.recipe.recipe import Recipe
from mergeopt.recipe.schema import MethodSchema, ParameterSchema
from mergeopt.recipe.settings import Scalar, parse_setting
from mergeopt.space.hole import Hole, number
from mergeopt.space.outline import Outline

TOP: Route = ("parameters",)
Place = tuple[Route, str]  # scope and key


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a setting.

    `values` is one value, or mergekit's gradient list (then a `Hole` in it is a single number). `label` begins the
    names of its dimensions; `start` is where a hole without an init starts.
    """

    filter: str | None
    values: tuple[Scalar | Hole, ...]
    label: str
    start: float

    @property
    def hole(self) -> Hole | None:
        """The hole that is this entry's whole value."""
        value = self.values[0] if len(self.values) == 1 else None
        return value if isinstance(value, Hole) else None

    @property
    def holes(self) -> tuple[Hole, ...]:
        return tuple(value for value in self.values if isinstance(value, Hole))

    def matches(self, name: str) -> bool:
        return bool(self.values) and (self.filter is None or self.filter == "*" or self.filter in name)


class Settings:
    """Every setting of a recipe that its method reads, as entries by scope and key."""

    def __init__(self, tree: Any, recipe: Recipe, schema: MethodSchema, outline: Outline, document: Document) -> None:
        self.sliced = "slices" in tree and bool(tree["slices"])
        self._homes = _homes(recipe, outline, self.sliced)
        self.by_place: dict[Place, tuple[Entry, ...]] = {}
        for scope, raw in scopes(tree):
            for key, value in raw.items():
                parameter = schema.parameters.get(key)
                if parameter is not None and value is not None:
                    start = _start(parameter, max(map(len, outline.sources)))
                    where = document.where((*scope, key))
                    self.by_place[scope, key] = _entries(value, parameter, self._homes[scope] + key, start, where)

    def levels(self, part: int, source: int | None) -> tuple[Route, ...]:
        """The scopes that a value of `source` (None: of the merge) asks in slice `part`, nearest first."""
        if not self.sliced:
            return (TOP,) if source is None else (("models", source, "parameters"), TOP)
        here: tuple[Route, ...] = (("slices", part, "parameters"), TOP)
        return here if source is None else (("slices", part, "sources", source, "parameters"), *here)

    def entries(self, scope: Route, key: str) -> tuple[Entry, ...]:
        return self.by_place.get((scope, key), ())


def scopes(tree: Any) -> Iterator[tuple[Route, Mapping[str, Any]]]:
    """Every ``parameters:`` mapping of a recipe, the nearest to the models first."""
    for i, model in enumerate(tree.get("models") or []):
        if isinstance(model, dict):
            yield ("models", i, "parameters"), model.get("parameters") or {}
    for p, part in enumerate(tree.get("slices") or []):
        for i, source in enumerate(part.get("sources") or []):
            yield ("slices", p, "sources", i, "parameters"), source.get("parameters") or {}
        yield ("slices", p, "parameters"), part.get("parameters") or {}
    yield TOP, tree.get("parameters") or {}


def _start(parameter: ParameterSchema, sources: int) -> float:
    default = number(parameter.default)
    return 1 / max(sources, 1) if default is None else default


def _entries(raw: Any, parameter: ParameterSchema, label: str, start: float, where: str) -> tuple[Entry, ...]:
    items = raw if isinstance(raw, list) else [raw]
    if not any(isinstance(item, dict) for item in items):
        return (_entry(None, raw, parameter, label, start, where),)
    return tuple(
        _entry(item.get("filter"), item["value"], parameter, label, start, f"{where}[{i}]")
        for i, item in enumerate(items)
    )


def _entry(word: str | None, raw: Any, parameter: ParameterSchema, label: str, start: float, where: str) -> Entry:
    values: list[Scalar | Hole] = []
    for item in raw if isinstance(raw, list) else [raw]:
        values += [item] if isinstance(item, Hole) else parse_setting(item, parameter.kind, where)[0].values
    return Entry(word, tuple(values), label if word in (None, "*") else f"{label}[{word}]", start)


def _homes(recipe: Recipe, outline: Outline, sliced: bool) -> dict[Route, str]:
    """What the names of a scope's dimensions begin with: the model, with its layers where it stands in several slices;
    the output's layers for a slice; nothing for the recipe.
    """
    if not sliced:
        homes: dict[Route, str] = {
            ("models", i, "parameters"): f"{source.model}." for i, source in enumerate(recipe.slices[0].sources)
        }
        return {**homes, TOP: ""}
    homes = {TOP: ""}
    models = [source.model for part in recipe.slices for source in part.sources]
    ranged = [(source.model, source.layer_range) for part in recipe.slices for source in part.sources]
    for p, part in enumerate(recipe.slices):
        begin, end = outline.starts[p], outline.starts[p] + outline.counts[p]
        homes["slices", p, "parameters"] = f"layers[{begin}:{end}]."
        for i, source in enumerate(part.sources):
            name = str(source.model)
            if models.count(source.model) > 1:
                first, last = source.layer_range or (0, outline.counts[p])
                name += f"[{first}:{last}]"
            if ranged.count((source.model, source.layer_range)) > 1:
                name += f"@{begin}"
            homes["slices", p, "sources", i, "parameters"] = f"{name}."
    return homes
