"""Results as tables for a terminal, and as Markdown for the model card."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from mergeopt.study.evaluation import ModelRow
from mergeopt.study.result import Cell, Result, Row


def result_table(result: Result) -> Table:
    """Every contender on the report split, the winner first, the rest by objective."""
    evals = list(result.rows[0].evals)
    table = Table(title="scores on the report items (± standard error)", title_justify="left")
    table.add_column("model")
    for name in evals:
        table.add_column(name, justify="right")
    table.add_column("objective", justify="right")
    table.add_column("winner − this (95 %)", justify="right")
    for row in ordered(result):
        style = "bold green" if row.name == result.winner else "dim" if row.kind == "compare" else None
        cells = [escape(label(row, result)), *(cell_text(row.evals[name]) for name in evals)]
        table.add_row(*cells, f"{row.objective:.3f}", difference_text(row), style=style)
    return table


def result_markdown(result: Result) -> str:
    """The same as Markdown."""
    evals = list(result.rows[0].evals)
    head = ["model", *evals, "objective", "winner − this (95 %)"]
    lines = ["| " + " | ".join(map(markdown_text, head)) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for row in ordered(result):
        name = markdown_text(label(row, result))
        name = f"**{name}**" if row.name == result.winner else name
        cells = [name, *(cell_text(row.evals[e]) for e in evals), f"{row.objective:.3f}", difference_text(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ordered(result: Result) -> list[Row]:
    """The winner, then the others by violation and objective."""
    others = sorted((r for r in result.rows if r.name != result.winner), key=lambda r: (r.violation, -r.objective))
    return [result.row(result.winner), *others]


def label(row: Row, result: Result) -> str:
    """The name that tables show, without local paths."""
    name = public_name(row.name)
    if row.name == result.winner:
        return f"{name} (winner)"
    return f"{name} ({row.kind})" if row.kind in ("base", "compare", "start") else name


def public_name(name: str) -> str:
    """A model's name for others to see: of a path the last part, of a Hub id all of it."""
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        return name.rstrip("/").rsplit("/", 1)[-1]
    return name


def cell_text(cell: Cell) -> str:
    """``.953 ± .006``"""
    return f"{cell.value:.3f} ± {cell.stderr:.3f}".replace("0.", ".") if abs(cell.value) < 1 else f"{cell.value:.3f}"


def difference_text(row: Row) -> str:
    """``+.021 [+.010, +.032]``"""
    if row.against is None:
        return ""
    return f"{row.against.mean:+.3f} [{row.against.low:+.3f}, {row.against.high:+.3f}]"


def verdict(result: Result) -> list[str]:
    """The result in two or three sentences."""
    lines = []
    if result.rival is None or result.gain is None:
        lines.append(f"winner: {result.winner}")
    elif result.learned:
        gain = result.gain
        sure = "" if gain.low > 0 else ": not distinguishable from zero"
        lines.append(
            f"gain over the best of parents and fixed recipes ({public_name(result.rival)}): "
            f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]{sure}"
        )
    else:
        lines.append(
            f"no gain: nothing found beats {public_name(result.winner)} on held-out items, so that is returned"
        )
    if result.search_value is not None:
        fresh = result.row(result.winner).objective
        lines.append(f"the search claimed {result.search_value:.3f} on its own items; fresh items say {fresh:.3f}")
    lines.append(f"{result.trials} trials ({result.failed} failed) in {result.seconds:.0f} s, {result.tokens:,} tokens")
    return lines


def markdown_text(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    for sign in "\\`*_{}[]<>#|":
        text = text.replace(sign, f"\\{sign}" if sign not in "<>" else f"&#{ord(sign)};")
    return " ".join(text.split())


def eval_table(rows: Sequence[ModelRow]) -> Table:
    """`mergeopt eval`: models down, evals across, paired differences to the first model."""
    evals = list(rows[0].evals)
    table = Table()
    table.add_column("model")
    for name in evals:
        table.add_column(escape(name), justify="right")
    for row in rows:
        cells = []
        for name in evals:
            text = cell_text(row.evals[name])
            if name in row.against:
                d = row.against[name]
                text += f"\n{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
            cells.append(text)
        table.add_row(escape(row.model), *cells)
    return table
