"""``chain: [a, b, c]``, the short form of a chain of pairwise merges: ((a ⊕ b) ⊕ c).

Written out it is the documents that mergekit-multi would take: step i merges what came out so far with the next model.
The first of a pair is what came out so far; where a method's base is one of the two (slerp), it is the base, t = 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mergeopt.errors import InputError, did_you_mean
from mergeopt.recipe.document import Document, Route
from mergeopt.recipe.schema import MethodSchema

ENTRY_KEYS = ("model", "parameters", "merge_method")


def written_out(
    document: Document,
    schemas: Mapping[str, MethodSchema],
    name_of: Callable[[int, Document], str] | None = None,
) -> tuple[Document, ...]:
    """The documents that a chain stands for, the last one with the chain's own name; others as they are.

    Of an entry's `parameters`, those per model belong to its model, the others to the step that brings it in. The top
    level's hold for every step.

    Args:
        document: A recipe, perhaps with `chain:`.
        schemas: Every known method.
        name_of: Names a step before the last, from its number and its document; by default ``step-1`` and so on.

    Raises:
        InputError: fewer than two models, an entry that is none, a base where the method's base is one of the pair.
    """
    data = document.data
    if not isinstance(data, dict) or "chain" not in data:
        return (document,)
    entries = data["chain"]
    if not isinstance(entries, list) or len(entries) < 2:
        remedy = "list two or more models in the order to be merged: chain: [{model: a}, {model: b}, {model: c}]"
        if isinstance(entries, dict) and entries.keys() & {"order", "choice"}:
            remedy = "`mergeopt search` finds the order; here list the models in one"
        raise InputError(f"chain is {entries!r}", where=document.where(("chain",)), remedy=remedy)
    for key in ("models", "slices", "modules"):
        if data.get(key):
            raise InputError(f"has both chain and {key}", where=document.where((key,)), remedy="give one of them")
    parts = [_entry(entry, document, i) for i, entry in enumerate(entries)]
    prefix = f"{data['name']}-" if data.get("name") else ""
    before, steps = parts[0], []
    for i in range(1, len(parts)):
        step = _step(document, before, parts[i], i, schemas)
        name = data.get("name")
        if i < len(parts) - 1:
            name = name_of(i, step) if name_of else f"{prefix}step-{i}"  # mergekit-multi breaks on a space
            before = {"model": name}
        steps.append(step if name is None else replace(step, data={**step.data, "name": name}))
    return tuple(steps)


def _entry(entry: Any, document: Document, index: int) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"model": entry}
    route: Route = ("chain", index)
    if not isinstance(entry, dict) or "model" not in entry:
        raise InputError(f"{entry!r} is no model", where=document.where(route), remedy="write - model: name")
    for key in entry:
        if key not in ENTRY_KEYS:
            hint = did_you_mean(str(key), ENTRY_KEYS)
            raise InputError(f"unknown key {key!r}", where=document.where((*route, key)), remedy=hint)
    _settings(entry, document, route)
    return entry


def _settings(part: Mapping[str, Any], document: Document, route: Route = ()) -> Mapping[str, Any]:
    """The `parameters` of an entry or of the top level."""
    given = part.get("parameters") or {}
    if not isinstance(given, dict):
        where = document.where((*route, "parameters"))
        raise InputError(f"parameters are {given!r}", where=where, remedy="write parameters: {weight: 0.5}")
    return given


def _step(
    document: Document,
    before: Mapping[str, Any],
    entry: Mapping[str, Any],
    index: int,
    schemas: Mapping[str, MethodSchema],
) -> Document:
    top = {key: value for key, value in document.data.items() if key != "chain"}
    method = entry.get("merge_method", top.get("merge_method"))
    schema = schemas.get(method) if isinstance(method, str) else None
    per_source = {key for key, p in schema.parameters.items() if p.per_source} if schema else set()
    given = entry.get("parameters") or {}
    own = {key: value for key, value in given.items() if key in per_source}
    step = {key: value for key, value in given.items() if key not in per_source}
    if schema and schema.takes_base and schema.max_sources == 1:
        if top.get("base_model") is not None:
            where = document.where(("base_model",))
            raise InputError(
                f"the base of a {method} chain is what came out so far", where=where, remedy="leave out base_model"
            )
        top["base_model"] = before["model"]
    first = {key: value for key, value in before.items() if key != "merge_method"}
    data = top | {"merge_method": method, "models": [first, {"model": entry["model"], "parameters": own}]}
    data["parameters"] = {**_settings(top, document), **step}
    data.pop("name", None)
    return Document(data, document.source, _lines(document, index), document.notices, document.text)


def _lines(document: Document, index: int) -> dict[Route, int]:
    """Where the step's parts stand: its models, and its parameters, which the entry or the top level may give."""
    lines = {route: line for route, line in document.lines.items() if route[:1] != ("chain",)}
    for route, line in document.lines.items():
        if route[:2] == ("chain", index):
            lines["models", 1, *route[2:]] = line
            if route[2:3] == ("parameters",) and len(route) > 3:
                lines["parameters", *route[3:]] = line
        if route[:2] == ("chain", 0) and index == 1:
            lines["models", 0, *route[2:]] = line
    lines["models",] = document.lines.get(("chain",), 1)
    return lines
