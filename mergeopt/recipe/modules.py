"""``modules: {default: {models: …}}``, which mergekit's tools write for a model of one module, said plainly."""

from collections.abc import Mapping
from typing import Any

from mergeopt.errors import InputError
from mergeopt.recipe.document import Document, Route


def without_modules(document: Document) -> Document:
    """The same recipe with its one module's `models` or `slices` at the top; unchanged where it has no modules.

    The module's parameters come before the top level's, entry by entry, so that the first match stays the first.

    Raises:
        InputError: several modules, or something else than a module.
    """
    data = document.data
    modules = data.get("modules") if isinstance(data, dict) else None
    if not modules:
        return document
    if not isinstance(modules, dict) or len(modules) > 1:
        raise InputError(
            "models of several modules cannot be merged yet",
            where=document.where(("modules",)),
            remedy="use models: or slices:",
        )
    name, module = next(iter(modules.items()))
    route: Route = ("modules", name)
    if not isinstance(module, dict):
        raise InputError(f"{module!r} is no module", where=document.where(route), remedy="write models: under it")
    top = {key: value for key, value in data.items() if key != "modules"}
    twice = [key for key in module if key in top and key != "parameters"]
    if twice:
        raise InputError(
            f"{twice[0]!r} stands at the top level too",
            where=document.where((*route, twice[0])),
            remedy="give it once",
        )
    flat = top | module | _joined(module, top)
    lines = {key[2:]: line for key, line in document.lines.items() if key[:2] == route and len(key) > 2}
    return Document(flat, document.source, {**lines, **document.lines}, document.notices, document.text)


def _joined(module: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    inner, outer = module.get("parameters"), top.get("parameters")
    if not isinstance(inner, dict) or not isinstance(outer, dict):
        return {"parameters": outer} if not inner and outer else {}
    both = {key: [*_entries(inner[key]), *_entries(outer[key])] for key in inner.keys() & outer.keys()}
    return {"parameters": outer | inner | both}


def _entries(setting: Any) -> list[Any]:
    """A raw setting as a list of {filter, value} entries."""
    if isinstance(setting, dict):
        return [setting]
    if isinstance(setting, list) and any(isinstance(item, dict) for item in setting):
        return setting
    return [{"value": setting}]
