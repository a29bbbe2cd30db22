"""A section of the report: a picture, a sentence on how to read it, and its numbers as a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mergeopt.errors import visible

MOST = 1000  # rows of a table: a page of a hundred thousand trials would open no more


@dataclass(frozen=True)
class Table:
    """Rows of text, the first column a name, the others numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def cells(self) -> list[list[str]]:
        """The first rows, as they are shown."""
        return [[visible(cell) for cell in row] for row in self.rows[:MOST]]

    @property
    def more(self) -> int:
        """Rows beyond those."""
        return max(0, len(self.rows) - MOST)


@dataclass(frozen=True)
class Figure:
    """`key` is the section's address in the page; `note` says how to read the picture."""

    key: str
    title: str
    note: str
    picture: Markup
    table: Table
