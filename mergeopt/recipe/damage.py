"""What happened to a text that is no longer YAML, and how to mend it.

Recipes travel through model cards, chats and web pages, and lose an indentation, gain a fence or a quotation mark on
the way. The parser says where it stopped; this says why.
"""

import re
from itertools import pairwise

FENCE = re.compile(r"\s*(```|~~~)")
KEY = re.compile(r"(\s*)([A-Za-z_][\w ]*):(\s|$)")
TOP_KEYS = ("merge_method", "models", "slices", "base_model", "parameters", "dtype", "tokenizer_source", "name")
LOOKALIKES = {"\u00a0": "a non-breaking space", "\u200b": "a zero-width space", "\u201c": "a curly quotation mark"}


def damage(text: str, line: int | None) -> str | None:
    """How to mend `text`, on which the YAML parser stopped at the 1-based `line`; None where nothing is recognised."""
    lines = text.splitlines()
    here = lines[min(line, len(lines)) - 1] if line and lines else ""
    above = lines[line - 2] if line and 1 < line <= len(lines) else ""
    separated = next((f for t in lines[: line or 0] if t.strip() == "---" and (f := _line(t))), None)
    return (
        _fenced(lines) or separated or _line(here) or _line(above) or _shifted(lines, line) or _two_things(lines, line)
    )


def _fenced(lines: list[str]) -> str | None:
    """Markdown around the YAML."""
    fences = [i for i, text in enumerate(lines, 1) if FENCE.match(text)]
    for first, last in pairwise(fences):
        if any(text.lstrip(" -").startswith("merge_method:") for text in lines[first : last - 1]):
            return f"it is Markdown: keep lines {first + 1} to {last - 1} only, the recipe between the fences"
    if fences:
        return f"it is Markdown: remove the fence on line {fences[0]}"
    return None


def _line(text: str) -> str | None:
    """What a single line shows."""
    if "\t" in text:
        return "the line holds a tab; YAML indents with spaces"
    for character, name in LOOKALIKES.items():
        if character in text:
            return f"the line holds {name}; type it anew"
    value = text.partition(": ")[2].strip() or text.strip().removeprefix("- ")
    if '"' in text and "\\" in text:
        return "in double quotes a backslash begins an escape; use single quotes, or forward slashes"
    if value.startswith(("`", "@", "%")):
        return f"text cannot begin with {value[0]}; remove or quote it"
    if re.match(r"[>|][^\s+-]", value):
        return f"text that begins with {value[0]} must be quoted"
    if value.startswith("*"):
        return "text that begins with * must be quoted"
    if text.strip() == "---" and text != text.lstrip():
        return "a line --- between two recipes must begin at the left edge"
    if text.strip() == "...":
        return "the dots stand for something: write it out"
    return None


def _shifted(lines: list[str], line: int | None) -> str | None:
    """A first key that stands deeper than a later one of the same level."""
    keys = [(i, found) for i, text in enumerate(lines, 1) if (found := KEY.match(text))]
    if not keys or not line:
        return None
    first, match = keys[0]
    indent = len(match[1])
    here = next((found for i, found in keys if i == line), None)
    if here is None or here[2] not in TOP_KEYS or len(here[1]) >= indent or match[2] not in TOP_KEYS:
        return None
    between = [i for i, found in keys if first < i < line and len(found[1]) == indent and found[2] in TOP_KEYS]
    if not between:
        return f"line {first} ({match[2]}:) is indented by {indent} and line {line} by {len(here[1])}: make them equal"
    return f"lines {first} to {line - 1} are indented by {indent}, line {line} by {len(here[1])}: make them equal"


def _two_things(lines: list[str], line: int | None) -> str | None:
    """A list or a key where the other kind stood before."""
    if not line:
        return None
    here = lines[min(line, len(lines)) - 1]
    earlier = next((text for text in lines if text.strip() and not text.lstrip().startswith("#")), "")
    if KEY.match(here) and earlier.lstrip().startswith("- "):
        parts = "slices:, each entry under - sources:" if any("layer_range" in text for text in lines) else "models:"
        return f"the list above has no key: put it under {parts}"
    if here.lstrip().startswith("- ") and ":" in here:
        return "a list needs a key of its own above it, e.g. models:, and one key per line"
    match = KEY.match(here)
    if match and here.count(": ") > 1:
        return "one key per line; quote a value that holds ': '"
    return None
