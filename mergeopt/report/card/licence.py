"""Under which licence a merge stands: the strictest of its parents', and in words where they do not go together.

Read from the front matter of each parent's README.md on disk. A licence that no parent states is never invented. None
of this is legal advice; it makes sure that nobody shares a merge without having been told.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from mergeopt.errors import InputError
from mergeopt.recipe.document import parse_document
from mergeopt.report.card.markdown import markdown_text

_LONGEST = 1 << 20  # characters of a card that are read
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_LINK = re.compile(r"https?://[^\s<>\"'`]+")


class Strictness(IntEnum):
    """What a licence asks of those who share a merge, from little to much."""

    PERMISSIVE = 0
    COPYLEFT = 1
    CUSTOM = 2  # a community's or a company's own terms
    NON_COMMERCIAL = 3
    NO_DERIVATIVES = 4  # a merge is a derivative
    UNKNOWN = 5


# The Hub's ids; what is not here and says neither nc nor nd is somebody's own. Later ones ask for more.
_PERMISSIVE = (
    "cc0-1.0", "unlicense", "pddl", "wtfpl", "isc", "zlib", "mit", "postgresql", "ncsa", "bsl-1.0", "bsd",
    "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "afl-3.0", "ecl-2.0", "artistic-2.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "etalab-2.0", "odc-by", "openmdw-1.0", "cc-by-2.0",
    "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "ms-pl", "apache-2.0",
)  # fmt: skip
_COPYLEFT = (
    "mpl-2.0", "epl-1.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "ofl-1.1", "lppl-1.3c", "osl-3.0", "odbl",
    "cdla-sharing-1.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "gfdl",
    "gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0",
)  # fmt: skip
_CUSTOM = (
    "openrail", "openrail++", "bigscience-openrail-m", "bigscience-bloom-rail-1.0", "creativeml-openrail-m",
    "bigcode-openrail-m", "c-uda", "apple-ascl", "deepfloyd-if-license", "grok2-community", "gemma", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4",
)  # fmt: skip
_CLOSED = ("h-research", "intel-research", "apple-amlr", "fair-noncommercial-research-license")
_RESEARCH = re.compile(r"\bnc\b|non-?commercial|research")
_FIXED = re.compile(r"\bnd\b|no-?deriv")


@dataclass(frozen=True, slots=True)
class Licence:
    """As a card states it: the Hub's id, and for ``other`` its name and link."""

    id: str
    name: str | None = None
    link: str | None = None

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name or self.id

    @property
    def strictness(self) -> Strictness:
        words = f"{self.id} {self.name or ''}".lower().replace("_", "-")
        if self.id == "unknown":
            return Strictness.UNKNOWN
        if _FIXED.search(words):
            return Strictness.NO_DERIVATIVES
        if self.id in _CLOSED or _RESEARCH.search(words):
            return Strictness.NON_COMMERCIAL
        tables = ((_PERMISSIVE, Strictness.PERMISSIVE), (_COPYLEFT, Strictness.COPYLEFT))
        return next((level for table, level in tables if self.id in table), Strictness.CUSTOM)

    @property
    def rank(self) -> tuple[int, int, str]:
        """By strictness, then by the order of the tables."""
        order = (*_PERMISSIVE, *_COPYLEFT, *_CUSTOM)
        return self.strictness, order.index(self.id) if self.id in order else len(order), self.label


UNKNOWN = Licence("unknown")


@dataclass(frozen=True)
class Terms:
    """What a merge's card says: the fields of its front matter, and lines of Markdown."""

    front: Mapping[str, str]
    lines: tuple[str, ...]


def terms(parents: Mapping[str, Path]) -> Terms:
    """The licence of a merge of `parents`, public name -> folder."""
    stated = {name: licences(folder, name) for name, folder in parents.items()}
    who: dict[Licence, list[str]] = {}
    for name, found in stated.items():
        for licence in found:
            who.setdefault(licence, []).append(name)
    ranked = sorted(who, key=lambda licence: licence.rank)
    listed = [licence for licence in ranked if licence != UNKNOWN]
    lines = [f"* {_linked(licence)}: {', '.join(map(markdown_text, who[licence]))}" for licence in listed]
    return Terms(_front(ranked), (*lines, *_remarks(ranked, who)))


def licences(folder: Path, hub: str = "") -> tuple[Licence, ...]:
    """What the card in `folder` states; ``unknown`` where it states nothing or there is no card.

    Args:
        folder: The model's.
        hub: Its Hub id, perhaps with a revision: where relative links lead to.
    """
    data = front_matter(folder / "README.md")
    given = data.get("license")
    ids = [str(each).strip().lower() for each in (given if isinstance(given, list) else [given]) if each]
    return tuple(_licence(each, data, hub) for each in dict.fromkeys(ids)) or (UNKNOWN,)


def front_matter(card: Path) -> dict[str, Any]:
    """The YAML at the head of a card; empty where there is none, or none that can be read."""
    try:
        with card.open(encoding="utf-8", errors="replace") as file:
            head = file.read(_LONGEST)
    except OSError:
        return {}
    found = _FRONT.match(head)
    try:
        data = parse_document(found[1], card.name).data if found else {}
    except InputError:
        return {}
    return data if isinstance(data, dict) else {}


def _licence(given: str, data: Mapping[str, Any], hub: str) -> Licence:
    known = (*_PERMISSIVE, *_COPYLEFT, *_CUSTOM, *_CLOSED)
    if given in known or re.fullmatch(r"cc-by(-nc|-nd|-sa)+-\d\.\d", given):
        return Licence(given)
    if given == "unknown":
        return UNKNOWN
    name = data.get("license_name") if given == "other" else given
    link = data.get("license_link")
    slug = re.sub(r"[^a-z0-9.+-]+", "-", str(name).lower()).strip("-")[:60] if name else None
    return Licence("other", slug or None, _link(link, hub) if isinstance(link, str) else None)


def _link(link: str, hub: str) -> str | None:
    """An address; of a file beside the card, where it stands on the Hub."""
    if _LINK.fullmatch(link):
        return link
    repository, _, revision = hub.partition("@")
    plain = re.fullmatch(r"[\w][\w.-]*", link)
    if plain and "/" in repository and not repository.startswith("local:"):
        return f"https://huggingface.co/{repository}/blob/{revision or 'main'}/{link}"
    return None


def _front(ranked: list[Licence]) -> dict[str, str]:
    """The strictest; where several are as strict and ask for terms of their own, all of them as ``other``."""
    if not ranked:
        return {"license": UNKNOWN.id}
    top = ranked[-1]
    equals = [licence for licence in ranked if licence.strictness == top.strictness]
    if len(equals) > 1 and top.strictness > Strictness.PERMISSIVE:
        return {"license": "other", "license_name": "-and-".join(each.label for each in equals)}
    named = {"license_name": top.name, "license_link": top.link} if top.id == "other" else {}
    return {"license": top.id} | {key: value for key, value in named.items() if value}


def _remarks(ranked: list[Licence], who: Mapping[Licence, Iterable[str]]) -> list[str]:
    """What a reader must know before sharing the merge."""
    lines = []
    if not ranked or UNKNOWN in who:
        silent = ", ".join(map(markdown_text, who.get(UNKNOWN, ()))) or "these models"
        lines.append(f"No licence is stated on disk for {silent}: find out before sharing this model.")
    stated = [licence for licence in ranked if licence != UNKNOWN]
    binding = [licence for licence in stated if licence.strictness > Strictness.PERMISSIVE]
    if len(binding) > 1:
        both = " and ".join(markdown_text(licence.label) for licence in binding)
        lines.append(f"**These licences conflict or may:** {both} each bind what is made from a model. Read them all.")
    elif len(stated) > 1:
        lines.append(f"The licences differ; the strictest, {markdown_text(stated[-1].label)}, is the one stated above.")
    if any(licence.strictness == Strictness.NO_DERIVATIVES for licence in stated):
        lines.append("**A merge is a derivative, and one of these licences forbids sharing derivatives.**")
    return ["", *lines] if lines and stated else lines


def _linked(licence: Licence) -> str:
    return f"[`{licence.label}`]({licence.link})" if licence.link else f"`{licence.label}`"
