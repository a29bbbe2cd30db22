"""Recipes by module: ``modules: {text_decoder: {models: …}, vision_tower: {…}}``.

Each module is read as a recipe of its own, with the top level's settings behind its own, and its slices carry its name.
Which tensors a module has is read off their names: mergekit's words for the parts of a model (`text_decoder`,
`encoder`, …) or any prefix of tensor names. ``{default: …}`` alone, which mergekit's tools write, is a plain recipe.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mergeopt.errors import InputError
from mergeopt.recipe.document import Document, Route
from mergeopt.recipe.recipe import Recipe
from mergeopt.recipe.shape import Shape

REST = "default"  # the module of what no other module has

# mergekit's names, and the part of a model that each means.
ROLES = {
    "text_decoder": "decoder", "decoder": "decoder", "encoder": "encoder", "shared": "shared",
    "vision_tower": "tower", "vision_model": "tower", "multi_modal_projector": "projector",
}  # fmt: skip
_PROJECTOR = re.compile(r"projector|connector|merger")
_TOWER = re.compile(r"vis|image|video|audio|speech")


def by_module(document: Document) -> dict[str, Document]:
    """Every module's recipe by name, each with its `models` or `slices` at the top; "" where it has no modules.

    A module's parameters come before the top level's, entry by entry, so that the first match stays the first.

    Raises:
        InputError: something else than modules.
    """
    data = document.data
    modules = data.get("modules") if isinstance(data, dict) else None
    if not modules:
        return {"": document}
    if not isinstance(modules, dict):
        remedy = "write modules: {text_decoder: {models: [...]}}"
        raise InputError(f"{modules!r} are no modules", where=document.where(("modules",)), remedy=remedy)
    found = {name: _flat(document, name, module) for name, module in modules.items()}
    return {"": found[REST]} if list(found) == [REST] else found


def joined(recipes: Mapping[str, Recipe], top: Recipe) -> Recipe:
    """One recipe of the modules' recipes.

    Args:
        recipes: By module name.
        top: Any of them, for what the modules have in common.
    """
    slices = []
    for name, recipe in recipes.items():
        for part in recipe.slices:
            parameters = dict(part.parameters)
            for key, setting in recipe.parameters.items():
                parameters[key] = (*parameters.get(key, ()), *setting)
            base = recipe.base_of(part)
            slices.append(replace(part, parameters=parameters, base=base, module=name))
    bases = {part.base for part in slices}
    if len(bases) == 1:
        return replace(top, slices=tuple(replace(part, base=None) for part in slices), parameters={})
    return replace(top, slices=tuple(slices), base=None, parameters={})


def members(shape: Shape, modules: Iterable[str]) -> dict[str, Shape]:
    """The tensors of each module, and under "" those of none.

    Raises:
        InputError: a module without tensors, or two with the same.
    """
    owner: dict[str, str] = {}
    for module in modules:
        for info in shape:
            if module != REST and _belongs(info.name, module):
                if info.name in owner:
                    raise InputError(f"tensor {info.name!r} is of both {owner[info.name]!r} and {module!r}")
                owner[info.name] = module
        if module != REST and module not in owner.values():
            raise InputError(f"no tensor is of module {module!r}", remedy=f"known: {', '.join(_known(shape))}")
    rest = REST if REST in modules else ""
    found: dict[str, Shape] = {}
    for module in dict.fromkeys((*modules, "")):
        tensors = {info.name: info for info in shape if owner.get(info.name, rest) == module}
        stacks = {info.stack for info in tensors.values()}
        found[module] = Shape(tensors, {stack: n for stack, n in shape.stacks.items() if stack in stacks})
    return found


def role_of(tensor: str) -> str:
    """The part of a model that a tensor's name speaks of: decoder, encoder, tower, projector or shared."""
    words = tensor.lower().removeprefix("model.").split(".")
    if any(_PROJECTOR.search(word) for word in words[:2]):
        return "projector"
    if _TOWER.search(words[0]):
        return "tower"
    return words[0] if words[0] in ("encoder", "shared") else "decoder"


def _belongs(tensor: str, module: str) -> bool:
    if module in ROLES:
        return role_of(tensor) == ROLES[module]
    return tensor.removeprefix("model.").startswith(f"{module.removeprefix('model.')}.")


def _known(shape: Shape) -> list[str]:
    roles = {role_of(info.name) for info in shape}
    prefixes = {info.name.removeprefix("model.").split(".")[0] for info in shape}
    return [*(name for name, role in ROLES.items() if role in roles), *sorted(prefixes - set(ROLES))]


def _flat(document: Document, name: str, module: Any) -> Document:
    route: Route = ("modules", name)
    if not isinstance(module, dict):
        raise InputError(f"{module!r} is no module", where=document.where(route), remedy="write models: under it")
    top = {key: value for key, value in document.data.items() if key != "modules"}
    twice = [key for key in module if key in top and key != "parameters"]
    if twice:
        raise InputError(
            f"{twice[0]!r} stands at the top level too",
            where=document.where((*route, twice[0])),
            remedy="give it once",
        )
    flat = top | module | _parameters(module, top)
    lines = {key[2:]: line for key, line in document.lines.items() if key[:2] == route and len(key) > 2}
    return Document(flat, document.source, {**document.lines, **lines}, document.notices, document.text)


def _parameters(module: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
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
