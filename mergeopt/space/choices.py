"""Choices make branches: one tree per combination, each a space of numbers only."""

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

from mergeopt.errors import InputError
from mergeopt.recipe.document import Document, Route, spell
from mergeopt.space.hole import Choice, Word
from mergeopt.space.tree import changed, found

MAX_BRANCHES = 64


def branches_of(tree: Any, document: Document) -> Iterator[tuple[str, Any]]:
    """Every combination of choices as (name, tree without choices); a tree without choices is one branch named "".

    Raises:
        InputError: more than `MAX_BRANCHES` combinations.
    """
    first: dict[Choice, Route] = {}
    for route, choice in found(tree, Choice):
        first.setdefault(choice, route)
    count = prod(len(choice.options) for choice in first)
    if count > MAX_BRANCHES:
        raise InputError(
            f"the choices make {count} combinations",
            where=document.where(list(first.values())[-1]),
            remedy=f"at most {MAX_BRANCHES} can be searched: fix some, or give several the same share:",
        )
    for options in product(*(choice.options for choice in first)):
        chosen = dict(zip(first, options, strict=True))
        branch = _chosen(tree, chosen)
        labels = [choice.share or _label(route, branch) for choice, route in first.items()]
        for i, route in enumerate(first.values()):
            if labels.count(labels[i]) > 1 and labels[i] != "model":
                labels[i] = spell(route)
        yield ", ".join(f"{label}={_word(option)}" for label, option in zip(labels, options, strict=True)), branch


def _chosen(tree: Any, chosen: Mapping[Choice, Word]) -> Any:
    return changed(tree, lambda value, _: chosen[value] if isinstance(value, Choice) else value)


def _label(route: Route, tree: Any) -> str:
    """What is chosen: ``merge_method``, ``normalize``, ``zoo/sort.weight[mlp]``."""
    if "parameters" not in route[:-1]:
        return str(route[-1]) if route else "recipe"
    at = route.index("parameters")
    owner = tree
    for step in route[:at]:
        owner = owner[step]
    label = f"{owner['model']}.{route[at + 1]}" if at and "model" in owner else str(route[at + 1])
    if route[-1] == "value":
        for step in route[at:-1]:
            owner = owner[step]
        if isinstance(owner, dict) and owner.get("filter"):
            label += f"[{owner['filter']}]"
    return label


def _word(option: Word) -> str:
    return str(option).lower() if isinstance(option, bool) else "null" if option is None else str(option)
