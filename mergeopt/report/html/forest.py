"""The evidence: the winner minus each contender on the report items, paired, with its interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mergeopt.report.html.figure import Figure, Table
from mergeopt.report.html.svg import NARROW, Axis, Drawing, axis, both, number
from mergeopt.report.table import cell_text, label, ordered, short, with_interval
from mergeopt.study.result import Result

TITLE = "Against every parent and recipe"
AXIS = "winner − this one, in the objective (95 %)"


@dataclass(frozen=True, slots=True)
class Line:
    """One contender. `mean` and its interval are the winner's minus this one's; the winner itself stands at 0."""

    name: str
    kind: str  # of the contender; "winner" and "rival" for these two
    objective: float
    mean: float
    low: float
    high: float
    text: str


def lines_of(result: Result) -> list[Line]:
    """The winner first, then the others, best first."""
    found = []
    for row in ordered(result):
        kind = "winner" if row.name == result.winner else "rival" if row.name == result.rival else str(row.kind)
        against = row.against
        interval = (0.0, 0.0, 0.0) if against is None else (against.mean, against.low, against.high)
        text = "" if against is None else with_interval(against)
        found.append(Line(label(row, result), kind, row.objective, *interval, text))
    return found


def forest_figure(result: Result) -> Figure:
    """The figure, with every eval's score in the table."""
    lines = lines_of(result)
    evals = list(result.rows[0].evals)
    rows = [
        [line.name, short(line.objective), line.text, *(cell_text(row.evals[name]) for name in evals)]
        for line, row in zip(lines, ordered(result), strict=True)
    ]
    return Figure(
        "evidence",
        TITLE,
        "On report items that nothing before had seen, the same for all. Right of the line the winner is better; an "
        "interval that crosses the line is no evidence either way. Objective: 0 is the base, 1 the best parent on each "
        "eval. Grey: only compared with, as it is no merge of these parents or could not be returned.",
        both(lambda width: _draw(lines, width)),
        Table(["model", "objective", "winner − this (95 %)", *evals], rows),
    )


def span(lines: Sequence[Line], start: float, end: float) -> Axis:
    """The axis of the differences: 0 on it, and unbounded intervals beyond its ends."""
    ends = [v for line in lines for v in (line.mean, line.low, line.high)]
    return axis([0.0, *ends], start, end)


def _draw(lines: Sequence[Line], width: float) -> Markup:
    narrow = width <= NARROW
    row, top = (46.0, 8.0) if narrow else (30.0, 26.0)
    height = top + row * len(lines) + 44
    drawing = Drawing(width, height, TITLE, _said(lines))
    across = span(lines, 8, width - 8) if narrow else span(lines, 230, width - 250)
    bottom = top + row * len(lines)
    for tick in across.ticks(5 if narrow else 7):
        drawing.line(across(tick), top, across(tick), bottom, "grid")
        drawing.text(across(tick), bottom + 16, number(tick), "muted", at="middle")
    drawing.line(across(0), top, across(0), bottom, "zero")
    drawing.text((across.start + across.end) / 2, bottom + 34, AXIS, "muted", at="middle")
    if not narrow:
        drawing.text(0, 16, "model", "muted")
        drawing.text(width - 190, 16, "objective", "muted", at="end")
        drawing.text(width, 16, "difference [95 %]", "muted", at="end")
    for i, line in enumerate(lines):
        y = top + row * i + row / 2
        style = "label bold" if line.kind in ("winner", "rival") else "quiet" if line.kind == "compare" else "label"
        if narrow:
            drawing.text(0, y - 7, line.name, style, width=width * 0.5)
            drawing.text(width, y - 7, line.text or short(line.objective), style, at="end")
            y += 9
        else:
            drawing.text(0, y + 4, line.name, style, width=222)
            drawing.text(width - 190, y + 4, short(line.objective), style, at="end")
            drawing.text(width, y + 4, line.text, style, at="end")
        _mark(drawing, line, across, y)
    return drawing.markup()


def _mark(drawing: Drawing, line: Line, across: Axis, y: float) -> None:
    if line.kind == "winner":
        x = across(0)
        drawing.path([(x - 7, y), (x, y - 7), (x + 7, y), (x, y + 7)], "won", closed=True, tip=line.name)
        return
    style = "compared" if line.kind == "compare" else "sure" if line.low > 0 else "lost" if line.high < 0 else "open"
    drawing.line(across(line.low), y, across(line.high), y, f"interval {style}")
    for end in (line.low, line.high):
        if math.isfinite(end):
            drawing.line(across(end), y - 4, across(end), y + 4, f"interval {style}")
    drawing.dot(across(line.mean), y, 5, f"mark {style}", tip=f"{line.name}: {line.text}")


def _said(lines: Sequence[Line]) -> str:
    others = [line for line in lines if line.kind != "winner"]
    return f"The winner's interval lies above {sum(line.low > 0 for line in others)} of {len(others)} others"
