"""A search file's recipe with its holes read: the same tree, with `Hole` and `Choice` values where holes were written.

A tree is plain data; what is done to it (choosing, filling) makes a new one and keeps the order of keys.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from mergeopt.errors import InputError, did_you_mean
from mergeopt.recipe.document import Document, Route
from mergeopt.space.hole import Choice, Hole, Reference, is_hole, parse_hole


def read_tree(document: Document) -> Any:
    """The document's data with every hole parsed and every ``{share: name}`` replaced by the hole of that name.

    Raises:
        InputError: a hole against the grammar, a hole where no number stands, a share that is never defined or defined
            twice differently.
    """
    count = 0

    def parse(value: Any, route: Route) -> Any:
        nonlocal count
        if not is_hole(value):
            _check_spelling(value, route, document)
            return value
        hole = parse_hole(value, document, route, count)
        count += 2
        if isinstance(hole, Hole):
            _check_place(hole, route, document)
        return hole

    tree = changed(document.data, parse)
    shared = _shared(tree, document)

    def linked(value: Any, _: Route) -> Any:
        if isinstance(value, Reference):
            hole = _definition(value, shared, document)
            if isinstance(hole, Hole):
                _check_place(hole, value.route, document)
            return hole
        if isinstance(value, Hole | Choice) and value.share is not None:
            value = shared[value.share]
        if isinstance(value, Hole) and isinstance(value.outer, Reference):
            outer = _definition(value.outer, shared, document)
            if not isinstance(outer, Hole) or outer.depth is not None or outer.parts is not None:
                raise InputError(
                    f"outer has one value, the shared hole {value.outer.name!r} has not",
                    where=document.where(value.outer.route),
                    remedy="share a hole without depth and parts",
                )
            return replace(value, outer=outer)
        return value

    return changed(tree, linked)


def changed(tree: Any, change: Callable[[Any, Route], Any], route: Route = ()) -> Any:
    """The tree with `change` applied to every value, outermost first; what it replaces is not entered."""
    new = change(tree, route)
    if new is not tree:
        return new
    if isinstance(tree, dict):
        return {key: changed(value, change, (*route, key)) for key, value in tree.items()}
    if isinstance(tree, list):
        return [changed(value, change, (*route, i)) for i, value in enumerate(tree)]
    return tree


def found(tree: Any, kind: type | tuple[type, ...], route: Route = ()) -> Iterator[tuple[Route, Any]]:
    """Every value of `kind` with its route, in the order of the file."""
    if isinstance(tree, kind):
        yield route, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from found(value, kind, (*route, key))
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from found(value, kind, (*route, i))


def _check_spelling(value: Any, route: Route, document: Document) -> None:
    """A mapping in a setting that is neither mergekit's nor a hole, but nearly."""
    if not isinstance(value, dict) or "parameters" not in route[:-1] or "value" in value:
        return
    for key in value:
        hint = did_you_mean(str(key), ("range", "choice"))
        if hint and hint.startswith("did"):
            raise InputError(f"a hole has no key {key!r}", where=document.where((*route, key)), remedy=hint)


def _check_place(hole: Hole, route: Route, document: Document) -> None:
    if "parameters" not in route[:-1]:
        raise InputError(
            "a range cannot stand here",
            where=document.where(route),
            remedy="numbers of a setting under parameters: can be searched; elsewhere use choice",
        )
    in_list = len(route) > 1 and isinstance(route[-1], int)
    if in_list and (hole.depth is not None or hole.parts is not None or hole.outer is not None):
        raise InputError(
            "a number inside a gradient list has no depth, parts or outer of its own",
            where=document.where(route),
            remedy="replace the whole list by {range: ..., depth: n}",
        )


def _shared(tree: Any, document: Document) -> dict[str, Hole | Choice]:
    shared: dict[str, Hole | Choice] = {}
    for _, hole in found(tree, (Hole, Choice)):
        inner = hole.outer if isinstance(hole, Hole) and isinstance(hole.outer, Hole) else None
        for each in (hole, inner):
            if each is None or each.share is None:
                continue
            first = shared.setdefault(each.share, each)
            if first.bare() != each.bare():
                raise InputError(
                    f"the shared hole {each.share!r} is defined twice, and differently",
                    where=document.where(each.route),
                    remedy=f"write {{share: {each.share}}} here; the other stands at {document.where(first.route)}",
                )
    return shared


def _definition(reference: Reference, shared: dict[str, Hole | Choice], document: Document) -> Hole | Choice:
    if reference.name not in shared:
        remedy = did_you_mean(reference.name, tuple(shared)) or "add share: <name> to the hole that has the range"
        raise InputError(
            f"no hole is shared as {reference.name!r}", where=document.where(reference.route), remedy=remedy
        )
    return shared[reference.name]
