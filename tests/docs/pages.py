"""A page of the documentation as a test sees it: files to write, commands to run, links to follow.

A comment before a fence says what is to be done with it::

    <!-- runs -->            its commands are run, in order, in one folder per page
    <!-- runs: slow -->      the same, in the slow tests
    <!-- parses -->          its commands are read by the command line's parser: they need a network, a GPU or minutes
    <!-- file: NAME -->      its text is written to NAME first; `NAME xN`: repeated N times, each a little different
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)\n```", re.DOTALL)
SHELLS = ("bash", "console", "sh")


@dataclass(frozen=True)
class Block:
    """One fence."""

    mark: str
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Its commands as words: all lines of a bash block, those after ``$`` of a console."""
        text = self.text.replace("\\\n", " ")
        lines = text.splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        split = [part for line in lines for part in line.split(" && ")]
        return [words for line in split if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    """Every fence of a page, in order."""
    found = FENCE.finditer(page.read_text())
    return [Block(match["mark"] or "", match["language"], match["text"]) for match in found]


def write_files(page: Path, folder: Path) -> list[str]:
    """Writes the files that a page shows; gives their names."""
    names = []
    for block in blocks(page):
        if match := re.fullmatch(r"file: (\S+)(?: x(\d+))?", block.mark):
            path = folder / match[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            copies = int(match[2] or 1)
            lines = [block.text if copies == 1 else _other(block.text, i) for i in range(copies)]
            path.write_text("\n".join(lines) + "\n")
            names.append(match[1])
    return names


def _other(line: str, number: int) -> str:
    """Another item like this one: other letters."""
    letters = "".join(chr(97 + (number * step + step) % 26) for step in (3, 5, 7))
    return line.replace("bca", letters).replace("abc", "".join(sorted(letters)))


def links(page: Path) -> Iterator[str]:
    """What a page links to inside the repository."""
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http:", "https:")):
            yield target


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub spells them in links."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
