"""The grammar of one hole.

A hole is a mapping with `range` (a number the search fills) or `choice` (one of a few values); every other mapping in a
recipe is mergekit's. ``{share: name}`` stands for the hole of that name elsewhere: same name, same value.
"""

from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Literal

from mergeopt.errors import InputError, did_you_mean
from mergeopt.recipe.document import Document, Route

MAX_POINTS = 10_000  # of a hole over depth
RANGE_KEYS = ("range", "init", "depth", "outer", "parts", "log", "share")
CHOICE_KEYS = ("choice", "share")
SPLITS = ("blocks", "modules")

Word = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Hole:
    """A number to be found in [low, high].

    Attributes:
        init: Where the search starts: () for the default, one number, or one per control point.
        log: The optimizer works on the logarithm.
        depth: None for one value everywhere, the number of control points over the output stack, or ``layers``.
        outer: What tensors of no layer get: a hole, a number, ``each`` (one value per tensor) or None.
        parts: Filters, ``blocks`` or ``modules``: the tensors are split by name and each part has values of its own.
        share: The name under which other places use the same values.
        order: Its place among the holes of the file: the hole's identity.
        route: Where it stands, for messages.
    """

    low: float
    high: float
    init: tuple[float, ...] = ()
    log: bool = False
    depth: int | Literal["layers"] | None = None
    outer: "Hole | Reference | float | Literal['each'] | None" = None
    parts: tuple[str, ...] | Literal["blocks", "modules"] | None = None
    share: str | None = None
    order: int = 0
    route: Route = field(default=(), compare=False)

    def clip(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def bare(self) -> "Hole":
        """What was written, without where."""
        outer = replace(self.outer, order=0) if isinstance(self.outer, Hole) else self.outer
        return replace(self, order=0, outer=outer)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values: a branch of the space for each."""

    options: tuple[Word, ...]
    share: str | None = None
    order: int = 0
    route: Route = field(default=(), compare=False)

    def bare(self) -> "Choice":
        """What was written, without where."""
        return replace(self, order=0)


@dataclass(frozen=True, slots=True)
class Reference:
    """``{share: name}``"""

    name: str
    route: Route = field(default=(), compare=False)


def is_hole(data: Any) -> bool:
    """Is this mapping ours and not mergekit's?"""
    return isinstance(data, dict) and any(key in data for key in ("range", "choice", "share"))


def parse_hole(data: dict[str, Any], document: Document, route: Route, order: int) -> Hole | Choice | Reference:
    """A hole as written at `route`. An inner hole (`outer`) has the number after its own: `order` counts in twos.

    Raises:
        InputError: what the grammar does not allow, with line and key.
    """
    return _Parser(document, route).parse(data, order)


class _Parser:
    def __init__(self, document: Document, route: Route) -> None:
        self.document, self.route = document, route

    def parse(self, data: dict[str, Any], order: int) -> Hole | Choice | Reference:
        if set(data) == {"share"}:
            return Reference(self._share(data) or "", self.route)
        if "range" in data and "choice" in data:
            raise self._error("has both range and choice", remedy="give one of them")
        if "choice" in data:
            return self._choice(data, order)
        if "range" not in data:
            others = ", ".join(key for key in data if key != "share")
            raise self._error(
                f"refers to the shared hole {data['share']!r} and also gives {others}",
                remedy="write {share: name} alone, or give the range",
            )
        return self._range(data, order)

    def _choice(self, data: dict[str, Any], order: int) -> Choice:
        for key in data:
            if key in RANGE_KEYS and key not in CHOICE_KEYS:
                raise self._error(f"{key!r} does not go with choice", key, "only a range has it")
        self._known(data, CHOICE_KEYS)
        options = data["choice"]
        if not isinstance(options, list) or not options:
            raise self._error(f"choice is {options!r}", "choice", "write a list: choice: [ties, dare_ties]")
        for option in options:
            if isinstance(option, list | dict):
                raise self._error(f"cannot choose {option!r}", "choice", "choose among words, numbers, true and false")
        if len({(type(option), option) for option in options}) < len(options):
            raise self._error(f"choice {options!r} lists a value twice", "choice", "list each once")
        return Choice(tuple(options), self._share(data), order, self.route)

    def _range(self, data: dict[str, Any], order: int) -> Hole:
        self._known(data, RANGE_KEYS)
        bounds = data["range"]
        if not isinstance(bounds, list) or len(bounds) != 2:
            raise self._error(f"range is {bounds!r}", "range", "write range: [low, high]")
        low, high = (self._number(bound, "range") for bound in bounds)
        if not low < high:
            raise self._error(f"range [{low:g}, {high:g}] is empty", "range", "write the lower number first")
        log = data.get("log", False)
        if not isinstance(log, bool):
            raise self._error(f"log is {log!r}", "log", "write log: true")
        if log and low <= 0:
            raise self._error(f"a logarithm cannot reach down to {low:g}", "log", "raise the lower end above 0")
        depth = self._depth(data.get("depth"))
        hole = Hole(low, high, (), log, depth, None, self._parts(data), self._share(data), order, self.route)
        return replace(hole, init=self._init(data, hole), outer=self._outer(data, order))

    def _init(self, data: dict[str, Any], hole: Hole) -> tuple[float, ...]:
        given = data.get("init")
        if given is None:
            return ()
        if isinstance(given, list):
            if hole.depth is None:
                raise self._error("init is a list, but the hole has one value", "init", "give a number, or add depth")
            if isinstance(hole.depth, int) and len(given) != hole.depth:
                raise self._error(
                    f"init has {len(given)} values and depth {hole.depth}", "init", f"give {hole.depth}, or one number"
                )
            if not given:
                raise self._error("init is empty", "init", "leave it out for the default")
        values = tuple(self._number(value, "init") for value in (given if isinstance(given, list) else [given]))
        for value in values:
            if not hole.low <= value <= hole.high:
                raise self._error(
                    f"init {value:g} lies outside the range [{hole.low:g}, {hole.high:g}]",
                    "init",
                    "widen the range or move init",
                )
        return values

    def _depth(self, given: Any) -> int | Literal["layers"] | None:
        if given is None or given == "layers":
            return "layers" if given else None
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise self._error(f"depth is {given!r}", "depth", "write a number of control points, or layers")
        if given > MAX_POINTS:
            raise self._error(f"depth is {given}", "depth", f"at most {MAX_POINTS}; no model has as many layers")
        return given

    def _outer(self, data: dict[str, Any], order: int) -> "Hole | Reference | float | Literal['each'] | None":
        given = data.get("outer")
        if given is None or given == "each":
            return "each" if given else None
        if not isinstance(given, dict):
            return self._number(given, "outer", "a hole, a number or each")
        for key in ("depth", "outer", "parts", "choice"):
            if key in given:
                raise self._error(f"{key!r} does not go with outer", "outer", "it has one value, or use outer: each")
        if not is_hole(given):
            raise self._error(f"outer is {given!r}", "outer", "write outer: {range: [0, 1]}, a number or each")
        inner = _Parser(self.document, (*self.route, "outer")).parse(given, order + 1)
        assert not isinstance(inner, Choice)
        return inner

    def _parts(self, data: dict[str, Any]) -> tuple[str, ...] | Literal["blocks", "modules"] | None:
        given = data.get("parts")
        if given is None:
            return None
        if given in SPLITS:
            return "blocks" if given == "blocks" else "modules"
        if isinstance(given, list) and given and all(isinstance(item, str) and item for item in given):
            if len(set(given)) < len(given):
                raise self._error(f"parts {given!r} lists a filter twice", "parts", "list each once")
            return tuple(given)
        hint = did_you_mean(given, SPLITS) if isinstance(given, str) else None
        raise self._error(f"parts is {given!r}", "parts", hint or "write a list of filters, blocks or modules")

    def _share(self, data: dict[str, Any]) -> str | None:
        name = data.get("share")
        if name is not None and (not isinstance(name, str) or not name):
            raise self._error(f"share is {name!r}", "share", "give it a name")
        return name

    def _known(self, data: dict[str, Any], known: tuple[str, ...]) -> None:
        for key in data:
            if key in ("filter", "value"):
                raise self._error(f"{key!r} stands inside the hole", key, "write {filter: mlp, value: {range: [0, 1]}}")
            if key not in known:
                raise self._error(f"a hole has no key {key!r}", key, did_you_mean(str(key), known))

    def _number(self, value: Any, key: str, wanted: str = "a number") -> float:
        found = number(value)
        if found is None:
            raise self._error(f"{key} has {value!r} where {wanted} belongs", key)
        return found

    def _error(self, problem: str, key: str | None = None, remedy: str | None = None) -> InputError:
        route = (*self.route, key) if key else self.route
        return InputError(problem, where=self.document.where(route), remedy=remedy)


def number(value: Any) -> float | None:
    """A finite number, also where YAML read 1e-3 as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if isfinite(found) else None
