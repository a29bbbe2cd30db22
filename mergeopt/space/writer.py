"""A branch's recipe with a slot for every number: what is left to do for a point is to fill it in.

mergekit's lists restart in each slice and hand their first value to tensors of no layer. So a hole with depth is
written as a list per slice, from the control points that it shares with the others, and tensors of no layer stand
before it under their full names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergeopt.errors import InputError
from mergeopt.recipe.document import Document, Route
from mergeopt.recipe.settings import depth_of
from mergeopt.space.entries import TOP, Entry
from mergeopt.space.filters import Group, Names, arrange
from mergeopt.space.hole import Hole
from mergeopt.space.meaning import Affine, Meaning, Terms, Variable, item_of
from mergeopt.space.outline import Place
from mergeopt.space.parts import REST, part_of
from mergeopt.space.tree import changed


@dataclass(frozen=True, slots=True)
class Run:
    """A list that is point[start:stop]."""

    start: int
    stop: int


def filled(template: Any, point: Sequence[float]) -> Any:
    """The template as plain data of its own."""
    if isinstance(template, dict):
        return {key: filled(value, point) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, point) for value in template]
    if isinstance(template, Run):
        return list(point[template.start : template.stop])
    if isinstance(template, Affine):
        return _number(template, point)
    return template


def _number(affine: Affine, point: Sequence[float]) -> float:
    """A number of the point as it is; one between two of them with six digits."""
    if len(affine.slopes) == 1 and affine.slopes[0][1] == 1.0 and affine.constant == 0.0:
        return point[affine.slopes[0][0]]
    value = affine.at(point)
    return float(f"{value:.6g}") if affine.slopes else value


def template(tree: Any, meaning: Meaning, indices: Mapping[Variable, int], document: Document) -> Any:
    """The tree with every setting that has holes written in mergekit's terms.

    Raises:
        InputError: tensors that no filters can tell apart.
    """
    return _Writer(tree, meaning, indices, document).write()


@dataclass(frozen=True, slots=True)
class _Key:
    """What tensors of one group have in common: the entry, the part, and which of the entry's values they get."""

    entry: int
    part: str
    kind: str  # "one" | "layers" | "plain" | "outer" | a tensor's name


class _Writer:
    def __init__(self, tree: Any, meaning: Meaning, indices: Mapping[Variable, int], document: Document) -> None:
        self.tree, self.meaning, self.indices, self.document = tree, meaning, indices, document
        self.outline, self.settings = meaning.outline, meaning.settings
        self._names: dict[tuple[str, ...], Names] = {}

    def write(self) -> Any:
        written: dict[Route, Any] = {}
        down: set[str] = set()
        for (scope, key), entries in self.settings.by_place.items():
            if scope == TOP and self._goes_down(entries):
                down.add(key)
            elif any(entry.holes for entry in entries):
                written[(*scope, key)] = self._setting(scope, key, entries, None)
        result = changed(self.tree, lambda value, route: written.get(route, value))
        for key in down:
            del result["parameters"][key]
            if not result["parameters"]:
                del result["parameters"]
            for p, part in enumerate(result["slices"]):
                self._write_down(part, p, key)
        return result

    def _goes_down(self, entries: tuple[Entry, ...]) -> bool:
        """Must a setting of the whole recipe be written slice by slice?"""
        varies = any(entry.hole is not None and entry.hole.depth is not None for entry in entries)
        return varies and len(self.outline.counts) > 1

    def _write_down(self, part: dict[str, Any], p: int, key: str) -> None:
        scope: Route = ("slices", p, "parameters")
        own = self.settings.entries(scope, key)
        written = self._setting(scope, key, (*own, *self.settings.entries(TOP, key)), p)
        if written is not None:
            part["parameters"] = {**(part.get("parameters") or {}), key: written}

    def _setting(self, scope: Route, key: str, entries: tuple[Entry, ...], part: int | None) -> Any:
        """The setting at `scope`; None where no tensor asks it."""
        asked = self._asked(scope, key)
        groups: dict[_Key, list[tuple[str, Place]]] = {}
        for name, place in asked.items():
            at = next((i for i, entry in enumerate(entries) if entry.matches(name)), None)
            if at is not None:
                groups.setdefault(self._key(at, entries[at], name, place), []).append((name, place))
        keys = sorted(groups, key=lambda k: (k.entry, k.kind in ("one", "layers", "plain"), _rank(entries[k.entry], k)))
        if not keys:
            return None if part is not None else [self._unasked(entry) for entry in entries]
        try:
            order = arrange(self._known(tuple(asked)), [_group(entries[k.entry], k, groups[k]) for k in keys])
        except InputError as error:
            raise error.at(self.document.where((*scope, key))) from None
        written = [
            ({} if word is None else {"filter": word}) | {"value": self._value(entries[keys[i].entry], keys[i], groups)}
            for word, i in order
        ]
        return written[0]["value"] if len(written) == 1 and "filter" not in written[0] else written

    def _asked(self, scope: Route, key: str) -> dict[str, Place]:
        """The names that a setting at `scope` may be asked for."""
        asked: dict[str, Place] = {}
        per_source = self.meaning.schema.parameters[key].per_source
        for place in self.outline.places:
            for source in self.outline.sources[place.part] if per_source else (None,):
                if scope in self.settings.levels(place.part, source):
                    asked.setdefault(place.tensor if source is None else place.names[source], place)
        return asked

    def _known(self, names: tuple[str, ...]) -> Names:
        return self._names.setdefault(names, Names(names))

    def _key(self, at: int, entry: Entry, name: str, place: Place) -> _Key:
        hole = entry.hole
        if hole is None:
            return _Key(at, "", "plain")
        part = part_of(hole.parts, name, place.info)
        if place.span is None and (hole.outer is not None or hole.depth is not None):
            return _Key(at, "", f" {name}" if hole.outer == "each" else "outer")
        if hole.depth is None:
            return _Key(at, part, "one")
        alone = place.row is None and len(self.outline.counts) > 1
        return _Key(at, part, f" {name}" if alone else "layers")

    def _value(self, entry: Entry, key: _Key, groups: Mapping[_Key, list[tuple[str, Place]]]) -> Any:
        name, place = groups[key][0]
        if key.kind == "plain":
            values = [self._number(item_of(entry, i)) if entry.holes else value for i, value in enumerate(entry.values)]
            return values[0] if len(values) == 1 else values
        if key.kind != "layers":
            terms = self.meaning.of_entry(entry, name, place)
            assert isinstance(terms, Terms)
            return self._number(terms)
        assert entry.hole is not None
        if len(self.outline.counts) == 1:
            return self._list(self.meaning.points(entry, entry.hole, key.part))
        start, count = self.outline.starts[place.part], self.outline.counts[place.part]
        spans = [depth_of(start + row, self.outline.layers) for row in range(count)]
        return self._list([self.meaning.along(entry, entry.hole, key.part, span) for span in spans])

    def _list(self, terms: Sequence[Terms]) -> Any:
        numbers = [self._number(each) for each in terms]
        if len(numbers) == 1:
            return numbers[0]
        at = [n.slopes[0][0] if n.constant == 0 and len(n.slopes) == 1 else -1 for n in numbers]
        whole = all(n.slopes and n.slopes[0][1] == 1 for n in numbers)
        if whole and at[0] >= 0 and at == list(range(at[0], at[0] + len(at))):
            return Run(at[0], at[-1] + 1)
        return numbers

    def _number(self, terms: Terms) -> Affine:
        return terms.over(self.indices)

    def _unasked(self, entry: Entry) -> Any:
        """An entry of a setting that no tensor asks for: kept, with the holes at their inits."""
        values = [v if not isinstance(v, Hole) else _init(entry, v) for v in entry.values]
        value = values[0] if len(values) == 1 else values
        return {"value": value} if entry.filter is None else {"filter": entry.filter, "value": value}


def _init(entry: Entry, hole: Hole) -> float:
    return Variable(hole.order, "", None, hole, entry.label, entry.start).init


def _rank(entry: Entry, key: _Key) -> int:
    """Named parts in the order given, the rest last."""
    split = entry.hole.parts if entry.hole else None
    if not isinstance(split, tuple):
        return 0 if key.part != REST else 1
    return split.index(key.part) if key.part in split else len(split)


def _group(entry: Entry, key: _Key, members: list[tuple[str, Place]]) -> Group:
    names = tuple(name for name, _ in members)
    named = key.kind not in ("one", "layers", "plain")
    wanted = [] if named else [word for word in (_word(entry, key), entry.filter) if word and word != "*"]
    paths = () if named else tuple(dict.fromkeys(p.info.part for _, p in members if not p.info.outer))
    return Group(names, tuple(wanted), paths, entry.filter in (None, "*") and not named)


def _word(entry: Entry, key: _Key) -> str | None:
    split = entry.hole.parts if entry.hole else None
    return key.part if split == "modules" or isinstance(split, tuple) else None
