"""Claimed and measured, side by side."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from mergeopt.errors import visible
from mergeopt.published.reproduction import Line


def side_by_side(lines: Sequence[Line]) -> Table:
    """A row per model and eval, in percent; the difference is to the first source that claims something."""
    table = Table(title="claimed and measured (%)", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("eval")
    for by in lines[0].claimed:
        table.add_column(_plain(by), justify="right")
    table.add_column("measured here", justify="right", no_wrap=True)
    table.add_column("measured − claimed", justify="right", no_wrap=True)
    last = None
    for line in lines:
        name = "" if line.model == last else _plain(line.model)
        claimed = [_percent(value) for value in line.claimed.values()]
        measured = _percent(line.measured) + ("" if line.stderr is None else f" ± {line.stderr * 100:.2f}")
        difference = "" if line.difference is None else f"{line.difference * 100:+.2f}"
        table.add_row(name, _plain(line.eval), *claimed, measured, difference)
        last = line.model
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.2f}"


def _plain(text: str) -> str:
    return escape(visible(text))
