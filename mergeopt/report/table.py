"""Results as tables for a terminal, and as Markdown for the model card."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mergeopt.errors import visible
from mergeopt.report.card.markdown import markdown_text
from mergeopt.scoring.statistics import PairedDifference
from mergeopt.study.evaluation import ModelRow
from mergeopt.study.result import Cell, Result, Row

EMPTY: Mapping[str, str] = MappingProxyType({})


def result_table(result: Result, width: int) -> Table:
    """Every contender on the report split, the winner first, the rest by objective; shorter where `width` needs it."""
    wide = _result_table(result, narrow=False)
    return wide if Console(width=10_000).measure(wide).maximum <= width else _result_table(result, narrow=True)


def _result_table(result: Result, *, narrow: bool) -> Table:
    title = "scores on the report items" + ("" if narrow else " (± standard error)")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model", no_wrap=True)
    table.add_column("objective", justify="right", no_wrap=True)
    table.add_column("winner − this (95\u00a0%)", justify="right", min_width=12 if narrow else None)
    evals = list(result.rows[0].evals)
    for name in evals:
        table.add_column(_plain(name), justify="right", overflow="fold")
    for row in ordered(result):
        style = "bold green" if row.name == result.winner else "dim" if row.kind == "compare" else None
        scores = [short(row.evals[n].value) if narrow else cell_text(row.evals[n]) for n in evals]
        difference = difference_text(row, narrow=narrow)
        table.add_row(_plain(label(row, result)), short(row.objective), difference, *scores, style=style)
    return table


def _plain(name: str) -> str:
    """A name as it is written: no markup of Rich, no escape code of a terminal."""
    return escape(visible(name))


def result_markdown(result: Result, names: Mapping[str, str]) -> str:
    """The same as Markdown; `names` are what others know the models by."""
    evals = list(result.rows[0].evals)
    head = ["model", *evals, "objective", "winner − this (95 %)"]
    lines = ["| " + " | ".join(map(markdown_text, head)) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for row in ordered(result):
        name = markdown_text(label(row, result, names))
        name = f"**{name}**" if row.name == result.winner else name
        cells = [name, *(cell_text(row.evals[e]) for e in evals), short(row.objective), difference_text(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ordered(result: Result) -> list[Row]:
    """The winner, then the others by violation and objective."""
    others = sorted((r for r in result.rows if r.name != result.winner), key=lambda r: (r.violation, -r.objective))
    return [result.row(result.winner), *others]


def label(row: Row, result: Result, names: Mapping[str, str] = EMPTY) -> str:
    """The name that tables show, without long paths."""
    name = names.get(row.name, public_name(row.name))
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
    return f"{short(cell.value)} ± {short(cell.stderr)}"


def short(number: float, sign: str = "-") -> str:
    """Three decimals, no zero before the point: ``.953``; with sign "+" also ``+.021``."""
    text = f"{number:{sign}.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def difference_text(row: Row, *, narrow: bool = False) -> str:
    """The winner minus this one: ``+.021 [+.010, +.032]``, or in less room ``+.021 ± .011``."""
    if row.against is None:
        return ""
    if narrow:
        return f"{short(row.against.mean, '+')} ± {short(row.against.high - row.against.mean)}"
    return with_interval(row.against)


def with_interval(difference: PairedDifference) -> str:
    """``+.021 [+.010, +.032]``"""
    return f"{short(difference.mean, '+')} [{short(difference.low, '+')}, {short(difference.high, '+')}]"


def verdict(result: Result, names: Mapping[str, str] = EMPTY) -> list[str]:
    """The result in two or three sentences."""

    def known(name: str) -> str:
        return names.get(name, public_name(name))

    lines = []
    if result.rival is None or result.gain is None:
        lines.append(f"winner: {known(result.winner)}")
    elif result.learned:
        gain = result.gain
        sure = "" if gain.low > 0 else ": not distinguishable from zero"
        lines.append(
            f"gain over the best of parents and fixed recipes ({known(result.rival)}): {with_interval(gain)}{sure}"
        )
    else:
        lines.append(f"no gain: nothing found beats {known(result.winner)} on held-out items, so that is returned")
    if result.search_value is not None:
        fresh = result.row(result.winner).objective
        lines.append(
            f"the search claimed {short(result.search_value)} on its own items; fresh items say {short(fresh)}"
        )
    if result.importance:
        most = ", ".join(f"{known(entry.name)} ({entry.share:.0%})" for entry in result.importance[:4])
        lines.append(f"what the loss minds most: {most}")
    steps = f" and {result.steps} gradient steps" if result.steps else ""
    lines.append(
        f"{result.trials} trials ({result.failed} failed){steps} in {result.seconds:.0f} s, {result.tokens:,} tokens"
    )
    return lines


def eval_table(rows: Sequence[ModelRow]) -> Table:
    """`mergeopt eval`: models down, evals across, paired differences to the first model."""
    evals = list(rows[0].evals)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model")
    for name in evals:
        table.add_column(_plain(name), justify="right")
    for row in rows:
        cells = []
        for name in evals:
            text = cell_text(row.evals[name])
            if name in row.against:
                text += f"\n{with_interval(row.against[name])}"
            cells.append(text)
        table.add_row(_plain(row.model), *cells)
    return table
