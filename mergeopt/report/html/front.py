"""Several objectives: the trials that no other beats on every eval at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mergeopt.report.html.figure import Figure, Table
from mergeopt.report.html.svg import NARROW, Axis, Drawing, axis, both, number
from mergeopt.report.table import short
from mergeopt.study.reading import Reading

TITLE = "Trade-offs between evals"


@dataclass(frozen=True, slots=True)
class Point:
    """A feasible trial; `best`: no other is at least as good on every eval and better on one."""

    number: int
    values: tuple[float, ...]
    best: bool


@dataclass(frozen=True)
class Front:
    """Every feasible trial's parts of the objective, one per eval that is no constraint."""

    evals: Sequence[str]
    points: Sequence[Point]


def front_of(study: Reading) -> Front | None:
    """The front; None for a single objective, or before there are two feasible trials."""
    tried = [trial for trial in study.trials if trial.value is not None and trial.violation == 0]
    if len({trial.objectives for trial in tried}) < 2 or len(tried[0].objectives) < 2:
        return None
    entries = zip(tried[0].scores, study.identity["objective"], strict=True)
    names = [name for name, entry in entries if entry["at_most"] is None and entry["at_least"] is None]
    known = [trial.objectives for trial in tried]
    return Front(names, [Point(t.number, t.objectives, not _beaten(t.objectives, known)) for t in tried])


def _beaten(values: Sequence[float], known: Sequence[Sequence[float]]) -> bool:
    return any(o != values and all(a >= b for a, b in zip(o, values, strict=True)) for o in known)


def front_figure(front: Front) -> Figure:
    """The figure: two evals as a plane, more side by side."""
    best = [point for point in front.points if point.best]
    how = (
        "each dot a trial, the line joins those that no other beats on both"
        if len(front.evals) == 2
        else "each line a trial across the evals; the strong ones are beaten by no other on all of them at once"
    )
    rows = [[f"trial {p.number}", *map(short, p.values)] for p in best]
    return Figure(
        "front",
        TITLE,
        f"On the search items, 0 the base and 1 the best parent: {how}.",
        both(lambda width: (_plane if len(front.evals) == 2 else _side_by_side)(front, width)),
        Table(["on the front", *front.evals], rows),
    )


def _said(front: Front) -> str:
    return f"{sum(p.best for p in front.points)} of {len(front.points)} feasible trials are on the front"


def _plane(front: Front, width: float) -> Markup:
    height = min(width * 0.7, 420.0)
    drawing = Drawing(width, height, TITLE, _said(front))
    across = axis([p.values[0] for p in front.points], 50, width - 12)
    up = axis([p.values[1] for p in front.points], height - 44, 28)
    for tick in across.ticks(5):
        drawing.line(across(tick), up.end, across(tick), up.start, "grid")
        drawing.text(across(tick), up.start + 16, number(tick), "muted", at="middle")
    for tick in up.ticks(5):
        drawing.line(across.start, up(tick), across.end, up(tick), "grid")
        drawing.text(44, up(tick) + 4, number(tick), "muted", at="end")
    drawing.text(0, 14, front.evals[1], "label", width=width)
    drawing.text(across.end, height - 8, front.evals[0], "label", at="end", width=width - 60)
    best = sorted((p for p in front.points if p.best), key=lambda p: p.values)
    drawing.path([(across(p.values[0]), up(p.values[1])) for p in best], "best")
    for p in sorted(front.points, key=lambda p: p.best):
        tip = f"trial {p.number}: {short(p.values[0])}, {short(p.values[1])}"
        drawing.dot(across(p.values[0]), up(p.values[1]), 4.5, "trial" if p.best else "batch", tip=tip)
    return drawing.markup()


def _side_by_side(front: Front, width: float) -> Markup:
    narrow = width <= NARROW
    height, bottom = 300.0, 300.0 - (64.0 if narrow else 34.0)
    drawing = Drawing(width, height, TITLE, _said(front))
    up = axis([v for p in front.points for v in p.values], bottom, 14)
    places = Axis(0, len(front.evals) - 1, 60, width - 50)
    for tick in up.ticks(5):
        drawing.line(places.start, up(tick), places.end, up(tick), "grid")
        drawing.text(40, up(tick) + 4, number(tick), "muted", at="end")
    room = (places.end - places.start) / (len(front.evals) - 1)
    for i, name in enumerate(front.evals):
        drawing.line(places(i), up.start, places(i), up.end, "zero")
        drop = 20 + (18 * (i % 2) if narrow else 0)  # neighbours' names on two lines
        at = "start" if i == 0 else "end" if i == len(front.evals) - 1 else "middle"
        x = places(i) + {"start": -40, "end": 40, "middle": 0}[at]
        drawing.text(x, bottom + drop, name, "label", at=at, width=room * (1.9 if narrow else 0.95))
    for p in sorted(front.points, key=lambda p: p.best):
        way = [(places(i), up(v)) for i, v in enumerate(p.values)]
        drawing.path(way, "front" if p.best else "behind", tip=f"trial {p.number}")
    return drawing.markup()
