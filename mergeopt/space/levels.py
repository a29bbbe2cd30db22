"""Few directions first, then more: the parametrisation that grows.

A branch may have hundreds of dimensions, and data for a few. A level is a set of directions in which its dimensions
move together: first one per hole, then three anchors over depth, then those of every block, then every layer, at last
each dimension alone. Every level can do what the one before could, so learning starts coarse and goes finer only as
far as held-out data pay for it. A direction says how far each dimension moves as a share of its range (its unit
coordinate, logarithmic where the dimension is), so that one step size fits all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mergeopt.space.meaning import Meaning, Terms, Variable
from mergeopt.space.parts import part_of

_ANCHORS = 3

Column = tuple[tuple[int, float], ...]
"""A sparse direction: (dimension, share of its range)."""

_Key = tuple[object, ...]
_Rule = Callable[[Variable], Mapping[_Key, float]]


@dataclass(frozen=True, slots=True)
class Level:
    """Directions of one fineness, named after what moves alone: source, depth, blocks, layers or tensors."""

    name: str
    columns: tuple[Column, ...]


def levels_of(meaning: Meaning, variables: Sequence[Variable]) -> tuple[Level, ...]:
    """The levels of a branch, coarse to fine; the last has one column per dimension. None without dimensions.

    A level with no more columns than the one before is left out.

    Args:
        meaning: Of the branch.
        variables: What its dimensions stand for, in their order.
    """
    points: dict[int, int] = {}
    for variable in variables:
        if isinstance(variable.index, int):
            points[variable.order] = max(points.get(variable.order, 0), variable.index + 1)
    rules = _Rules(points, _blocks(meaning))
    found: list[Level] = []
    for name, rule in (
        ("source", rules.source),
        ("depth", rules.depth),
        ("blocks", rules.blocks),
        ("layers", rules.layers),
        ("tensors", rules.tensors),
    ):
        columns = _columns(variables, rule)
        if name == "tensors" or len(found[-1].columns if found else ()) < len(columns) <= len(variables):
            found.append(Level(name, columns))
        if all(len(column) == 1 for column in columns) and len(columns) == len(variables):
            break
    return tuple(found) if variables else ()


def _columns(variables: Sequence[Variable], rule: _Rule) -> tuple[Column, ...]:
    """One column per key, in the order in which the keys appear."""
    columns: dict[_Key, list[tuple[int, float]]] = {}
    for index, variable in enumerate(variables):
        for key, share in rule(variable).items():
            columns.setdefault(key, []).append((index, share))
    return tuple(map(tuple, columns.values()))


@dataclass(frozen=True)
class _Rules:
    """Which columns a variable is in, and with which share, at every level."""

    points: Mapping[int, int]  # control points of each hole with depth
    blocks_of: Mapping[Variable, tuple[str, ...]]

    def source(self, variable: Variable) -> Mapping[_Key, float]:
        return {(_hole(variable),): 1.0}

    def depth(self, variable: Variable) -> Mapping[_Key, float]:
        return self._anchored(variable, ())

    def blocks(self, variable: Variable) -> Mapping[_Key, float]:
        return self._anchored(variable, self.blocks_of[variable])

    def layers(self, variable: Variable) -> Mapping[_Key, float]:
        index = variable.index if isinstance(variable.index, int) else None
        return {(_hole(variable), _outer(variable), self.blocks_of[variable], index): 1.0}

    def tensors(self, variable: Variable) -> Mapping[_Key, float]:
        return {(variable,): 1.0}

    def _anchored(self, variable: Variable, block: tuple[str, ...]) -> Mapping[_Key, float]:
        """Hat functions of the control point's depth, at most one per control point; one column without depth."""
        key = (_hole(variable), _outer(variable), block)
        points = self.points.get(variable.order, 1)
        if not isinstance(variable.index, int) or points < 2:
            return {key: 1.0}
        last = min(_ANCHORS, points) - 1
        place = variable.index / (points - 1) * last
        return {(*key, a): share for a in range(last + 1) if (share := 1 - abs(place - a)) > 0}


def _hole(variable: Variable) -> int:
    """The number of the hole as written: its `outer` has the number after its own."""
    return variable.order // 2


def _outer(variable: Variable) -> bool:
    return isinstance(variable.index, str) or variable.order % 2 == 1


def _blocks(meaning: Meaning) -> Mapping[Variable, tuple[str, ...]]:
    """The blocks (attention, mlp, norm, rest) that each variable reaches."""
    reached: dict[Variable, set[str]] = {}
    for key, parameter in meaning.schema.parameters.items():
        for place in meaning.outline.places:
            block = part_of("blocks", place.tensor, place.info)
            for source in meaning.outline.sources[place.part] if parameter.per_source else (None,):
                value = meaning.value(source, key, place)
                for variable, _ in value.slopes if isinstance(value, Terms) else ():
                    reached.setdefault(variable, set()).add(block)
    return {variable: tuple(sorted(blocks)) for variable, blocks in reached.items()}
