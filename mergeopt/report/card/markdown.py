"""Text that Markdown and HTML leave as it is, whatever names from files hold."""

import re

_FENCES = re.compile(r"`{3,}")


def markdown_text(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    for sign in "\\`*_{}[]#|~":
        text = text.replace(sign, f"\\{sign}")
    for sign in "&<>":
        text = text.replace(sign, f"&#{ord(sign)};")
    return " ".join(text.split())


def fenced(text: str, language: str) -> list[str]:
    """Lines of a code block, in a fence longer than any that stands in `text`."""
    longest = max((len(found) for found in _FENCES.findall(text)), default=2)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text.rstrip(), fence]
