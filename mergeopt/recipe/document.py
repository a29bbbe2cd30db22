"""YAML text to plain data that remembers its lines.

Safe loading only, with limits on size, depth and alias expansion, so that no file can hang the tool or fill the
memory. Every value keeps the line it came from, because an error that cannot say where is half an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mergeopt.errors import InputError
from mergeopt.recipe.damage import LOOKALIKES, damage

MAX_BYTES = 4 << 20
MAX_DEPTH = 40
MAX_VALUES = 200_000  # counted after aliases are expanded

_PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

Route = tuple[str | int, ...]  # ("models", 1, "parameters", "weight")


@dataclass(frozen=True)
class Document:
    """One YAML document as plain dicts, lists and scalars.

    `lines` maps a route to its 1-based line; `notices` are oddities that YAML lets pass (duplicate keys).
    """

    data: Any
    source: str
    lines: Mapping[Route, int] = field(default_factory=dict, repr=False)
    notices: tuple[str, ...] = ()
    text: str = field(default="", repr=False)

    def where(self, route: Route = ()) -> str:
        """``recipe.yaml:12 models[1].parameters.weight``; the nearest known line for a missing key."""
        known = route
        while known and known not in self.lines:
            known = known[:-1]
        line = self.lines.get(known)
        place = f"{self.source}:{line}" if line else self.source
        return f"{place} {spell(route)}" if route else place

    def part(self, *route: str | int) -> "Document":
        """The document's value at `route` as a document of its own, lines kept."""
        data = self.data
        for step in route:
            data = data[step]
        n = len(route)
        lines = {key[n:]: line for key, line in self.lines.items() if key[:n] == route}
        return Document(data, self.source, lines, self.notices, self.text)


def spell(route: Route) -> str:
    """``models[1].parameters.weight``"""
    text = ""
    for step in route:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read_document(path: Path) -> Document:
    """The single YAML document in `path`.

    Raises:
        InputError: as `read_documents`; several documents.
    """
    return _only(read_documents(path))


def read_documents(path: Path) -> tuple[Document, ...]:
    """Every YAML document in `path`: one for a recipe, several (``---`` between them) for the stages of a chain.

    Raises:
        InputError: unreadable file, not UTF-8, not YAML, no document, or beyond the limits.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(
                f"{size} bytes are too many for a recipe",
                where=str(path),
                remedy="a recipe is text of at most 4 MB",
            )
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), remedy=_neighbours(path)) from None
    except IsADirectoryError:
        raise InputError("is a folder, not a YAML file", where=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
    return parse_documents(text, str(path))


def parse_document(text: str, source: str) -> Document:
    """As `read_document`, from text; `source` is the name that errors will use."""
    return _only(parse_documents(text, source))


def parse_documents(text: str, source: str) -> tuple[Document, ...]:
    """As `read_documents`, from text. The limits are those of the whole text."""
    try:
        roots = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        row = mark.line + 1 if mark else None
        problem = f"not YAML: {error.problem or error.context or 'syntax error'}"
        remedy = damage(text, row) or "mend this line or the one above it"
        raise InputError(problem, where=f"{source}:{row}" if row else source, remedy=remedy) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last: a character beyond any
        raise InputError(f"not YAML: {str(error).splitlines()[0]}", where=source, remedy=damage(text, None)) from None
    except RecursionError:
        raise InputError("nested too deeply", where=source, remedy=f"at most {MAX_DEPTH} levels") from None
    roots = [root for root in roots if root is not None and root.tag != "tag:yaml.org,2002:null"]
    if not roots:
        raise InputError("is empty", where=source, remedy="a recipe starts with merge_method: and models:")
    documents, count = [], 0
    for root in roots:
        builder = _Builder(source, count)
        data = builder.build(root, (), 0)
        documents.append(Document(data, source, builder.lines, tuple(builder.notices), text))
        count = builder.count
    return tuple(documents)


def _only(documents: tuple[Document, ...]) -> Document:
    if len(documents) > 1:
        raise InputError(
            f"holds {len(documents)} documents, the second from here on",
            where=documents[1].where(),
            remedy="one is wanted here; `mergeopt merge` takes several as the stages of a chain",
        )
    return documents[0]


class _Builder:
    """Turns composed nodes into plain data, counting as it goes."""

    def __init__(self, source: str, count: int) -> None:
        self.source, self.count = source, count
        self.lines: dict[Route, int] = {}
        self.notices: list[str] = []
        self.scalars = yaml.SafeLoader("")

    def build(self, node: yaml.Node, route: Route, depth: int) -> Any:
        self.count += 1
        line = node.start_mark.line + 1
        if depth > MAX_DEPTH or self.count > MAX_VALUES:
            limit = f"{MAX_DEPTH} levels" if depth > MAX_DEPTH else f"{MAX_VALUES} values"
            raise InputError(f"more than {limit}", where=f"{self.source}:{line}", remedy="a recipe needs no such thing")
        self.lines.setdefault(route, line)
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN:
            raise InputError(f"{node.tag!r} is not plain YAML", where=f"{self.source}:{line} {spell(route)}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, route, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*route, i), depth + 1) for i, child in enumerate(node.value)]
        where = f"{self.source}:{line} {spell(route)}"
        try:
            value = self.scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            problem = getattr(error, "problem", None) or str(error)
            raise InputError(f"cannot be read: {problem}", where=where) from None
        except (LookupError, AttributeError, OverflowError):  # PyYAML's answer to a tag that does not fit
            problem = f"{node.value!r} as {node.tag.rpartition(':')[2]}"
            raise InputError(f"cannot be read: {problem}", where=where) from None
        return _whole_text(value, where) if isinstance(value, str) else value

    def _mapping(self, node: yaml.MappingNode, route: Route, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise InputError(
                    "a key must be a plain word",
                    where=f"{self.source}:{line} {spell(route)}",
                    remedy="quote text that holds { } or [ ]",
                )
            key = _whole_text(key_node.value, f"{self.source}:{line} {spell(route)}")
            here = (*route, key)
            if odd := next((name for character, name in LOOKALIKES.items() if character in key), None):
                where = f"{self.source}:{line}"
                raise InputError(f"the key {key.strip()!r} holds {odd}", where=where, remedy="type the line anew")
            if key_node.tag == "tag:yaml.org,2002:merge":
                given = self.build(value_node, here, depth + 1)
                for defaults in given if isinstance(given, list) else [given]:
                    merged = {**defaults, **merged} if isinstance(defaults, dict) else merged
                continue
            if key in own:
                place = f"{self.source}:{line} {spell(here)}"
                text = f"{place}: given twice (first on line {self.lines[here]}); the last one counts"
                two = "; two recipes need a line --- between them" if here == ("merge_method",) else ""
                self.notices.append(text + two)
            self.lines[here] = line
            own[key] = self.build(value_node, here, depth + 1)
        return {**merged, **own}


def _whole_text(text: str, where: str) -> str:
    """Text in which pairs of surrogates (JSON's way to write 😀) are one character; a lone one is none."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise InputError(f"{text!r} holds half a character", where=where, remedy="remove the \\ud… escape") from None


def _neighbours(path: Path) -> str | None:
    import difflib

    try:
        names = [p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml")]
    except OSError:
        return f"there is no folder {path.parent}"
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {str(path.parent / close[0])!r}?" if close else None
