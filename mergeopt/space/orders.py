"""The orders of a chain: each is a branch, and of each only the last step is searched.

``chain: {order: [a, b, c]}`` stands for every order of the models, ``chain: {choice: [[a, b, c], [b, a, c]]}`` for
those listed. The steps before the last have numbers of their own and are made once: steps that are the same in two
branches have one name.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import factorial
from typing import Any

from mergeopt.errors import InputError, did_you_mean
from mergeopt.recipe.chain import written_out
from mergeopt.recipe.document import Document, Route
from mergeopt.recipe.schema import MethodSchema
from mergeopt.space.choices import MAX_BRANCHES, branches_of
from mergeopt.space.hole import Hole
from mergeopt.space.tree import found, read_tree

MAX_ORDERS = 24
KEYS = ("order", "choice")


@dataclass(frozen=True)
class Variant:
    """A recipe without choices. `before`: the steps that it stands on, plain and named; `last`: a tree with holes."""

    name: str
    before: tuple[Document, ...]
    last: Document


def variants(document: Document, schemas: Mapping[str, MethodSchema]) -> Iterator[Variant]:
    """Every order with every combination of choices; a recipe without any is one variant named "".

    Raises:
        InputError: a hole against the grammar, or in a step before the last; more than `MAX_BRANCHES` variants.
    """
    names: dict[str, str] = {}
    words = {word for _, word in found(document.data, str)}  # a model may be called as we call a step
    fresh = (name for name in map("step-{}".format, itertools.count(1)) if name not in words)

    def name_of(_: int, step: Document) -> str:
        for route, _hole in found(step.data, Hole):
            problem = "a range in a step before the last of a chain cannot be searched"
            remedy = "give it a number or {choice: [...]}; in the last step's own entry a range can stand"
            raise InputError(problem, where=step.where(route), remedy=remedy)
        made = _text(step.data)
        if made not in names:
            names[made] = next(fresh)
        return names[made]

    count = 0
    for order, part in _orders(document):
        for choice, tree in branches_of(read_tree(part), part):
            name = ", ".join(filter(None, (order, choice)))
            count += 1
            if count > MAX_BRANCHES:
                problem = f"orders and choices make more than {MAX_BRANCHES} combinations"
                raise InputError(problem, where=document.where(("chain",)), remedy="fix some of them")
            with named(name):
                *before, last = written_out(replace(part, data=tree), schemas, name_of)
            yield Variant(name, tuple(before), last)


def earlier_steps(document: Document, schemas: Mapping[str, MethodSchema]) -> tuple[Document, ...]:
    """Every step before the last of any variant, each once, after what it needs.

    Raises:
        InputError: as `variants`.
    """
    steps = {step.data["name"]: step for variant in variants(document, schemas) for step in variant.before}
    return tuple(steps.values())


@contextmanager
def named(branch: str) -> Iterator[None]:
    """Mistakes inside are said to be those of a branch."""
    try:
        yield
    except InputError as error:
        if not branch:
            raise
        raise InputError(f"{error.problem} (with {branch})", where=error.where, remedy=error.remedy) from None


def _orders(document: Document) -> Iterator[tuple[str, Document]]:
    """The document with each order of its chain written down; as it is, named "", where that is no hole."""
    chain = document.data.get("chain") if isinstance(document.data, dict) else None
    if not isinstance(chain, dict):
        yield "", document
        return
    key, entries = _hole(chain, document)
    orders: list[list[Route]]
    if key == "order":
        orders = [[(position,) for position in order] for order in itertools.permutations(range(len(entries)))]
    else:
        orders = [[(i, j) for j in range(len(order))] for i, order in enumerate(entries)]
    labels = [f"order={' > '.join(_model(_at(entries, route)) for route in order)}" for order in orders]
    for i, (label, order) in enumerate(zip(labels, orders, strict=True)):
        lines = {route: line for route, line in document.lines.items() if route[:1] != ("chain",)}
        lines["chain",] = document.lines.get(("chain",), 1)
        for j, route in enumerate(order):
            at = ("chain", key, *route)
            lines |= {("chain", j, *r[len(at) :]): line for r, line in document.lines.items() if r[: len(at)] == at}
        data = document.data | {"chain": [_at(entries, route) for route in order]}
        again = labels[:i].count(label)  # the same models with other settings
        yield label + (f" ({again + 1})" if again else ""), replace(document, data=data, lines=lines)


def _hole(chain: Mapping[str, Any], document: Document) -> tuple[str, list[Any]]:
    """``order`` and the models, or ``choice`` and the orders."""
    where = document.where(("chain",))
    remedy = "write chain: {order: [a, b, c]} for every order, or chain: {choice: [[a, b, c], [b, a, c]]}"
    for key in chain:
        if key not in KEYS:
            hint = did_you_mean(str(key), KEYS)
            raise InputError(f"chain has no key {key!r}", where=document.where(("chain", key)), remedy=hint)
    if len(chain) != 1:
        raise InputError(f"chain has {' and '.join(map(repr, chain)) or 'nothing'}", where=where, remedy=remedy)
    ((key, entries),) = chain.items()
    lists = [entries] if key == "order" else entries
    if not isinstance(lists, list) or not lists or not all(isinstance(e, list) and len(e) > 1 for e in lists):
        raise InputError(f"{key} is {entries!r}", where=document.where(("chain", key)), remedy=remedy)
    count = factorial(len(entries)) if key == "order" else len(entries)
    if count > MAX_ORDERS:
        raise InputError(
            f"{len(entries)} models have {count} orders" if key == "order" else f"{count} orders are listed",
            where=document.where(("chain", key)),
            remedy=f"at most {MAX_ORDERS} can be searched: list those to try: chain: {{choice: [[...], [...]]}}",
        )
    twice = [item for item, times in Counter(map(_text, entries)).items() if times > 1]
    if twice:
        raise InputError(f"{key} lists {twice[0]} twice", where=document.where(("chain", key)), remedy="list each once")
    return key, entries


def _at(entries: list[Any], route: Route) -> Any:
    value: Any = entries  # lists in lists
    for step in route:
        value = value[step]
    return value


def _model(entry: Any) -> str:
    """How an entry is called in a branch's name."""
    model = entry.get("model") if isinstance(entry, dict) else entry
    return model if isinstance(model, str) else _text(model)


def _text(item: Any) -> str:
    return json.dumps(item, sort_keys=True, default=str)
