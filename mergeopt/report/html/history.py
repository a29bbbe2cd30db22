"""How the search went: every trial with its interval, the best so far, and the losses that were gone down."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from mergeopt.report.html.figure import Figure, Table
from mergeopt.report.html.svg import Axis, Drawing, axis, both, number
from mergeopt.report.table import short
from mergeopt.study.reading import Reading

Z = 1.96
LEFT, RIGHT, PANEL, GAP = 46.0, 12.0, 220.0, 46.0


@dataclass(frozen=True, slots=True)
class Tried:
    """A trial; `value` None: it failed. `half` is half of its 95 % interval, 0 where it is not known."""

    number: int
    value: float | None
    half: float
    feasible: bool
    best: float | None  # of the feasible ones so far


@dataclass(frozen=True, slots=True)
class Learned:
    """The loss at a step: of a mini-batch, or of the held-out lessons."""

    number: int
    loss: float
    held_out: bool


@dataclass(frozen=True)
class History:
    """Trials and steps share their numbers: both are proposals. `refined`: losses below the tensor, by its steps."""

    tried: Sequence[Tried]
    learned: Sequence[Learned]
    refined: Sequence[Learned] = ()

    @property
    def last(self) -> int:
        return max([t.number for t in self.tried] + [s.number for s in self.learned], default=0)


def history_of(study: Reading) -> History:
    """The history of a study."""
    tried: list[Tried] = []
    best: float | None = None
    for trial in study.trials:
        feasible = trial.violation == 0
        if trial.value is not None and feasible:
            best = trial.value if best is None else max(best, trial.value)
        error = trial.error if trial.error is not None and math.isfinite(trial.error) else 0.0
        tried.append(Tried(trial.number, trial.value, Z * error, feasible, best))
    learned = [
        Learned(step.number, -step.value, "gradient" not in step.wants)
        for step in study.steps
        if step.value is not None
    ]
    refined: list[Learned] = []
    for note in study.notes("refinement"):
        if note["step"] == 0:  # begun anew
            refined = []
        if note["loss"] is not None and math.isfinite(note["loss"]):
            refined.append(Learned(note["step"], note["loss"], held_out=True))
    return History(tried, learned, refined)


def history_figure(history: History) -> Figure | None:
    """The figure; None where nothing was tried yet."""
    if not history.tried and not history.learned:
        return None
    rows = [
        [f"trial {t.number}", _short(t.value), _half(t), _short(t.best), "" if t.feasible else "infeasible"]
        for t in history.tried
    ]
    rows += [
        [f"step {s.number}", number(s.loss), "", "", "held-out loss" if s.held_out else "mini-batch loss"]
        for s in history.learned
    ]
    rows += [[f"step {s.number} below the tensor", number(s.loss), "", "", "held-out loss"] for s in history.refined]
    return Figure(
        "history",
        "History",
        "Each dot is a trial on the search items, with its 95 % interval; the line is the best so far that keeps every "
        "constraint, hollow dots break one, crosses failed. Below, the loss that the gradient goes down: small dots "
        "are mini-batches, the line the held-out lessons"
        + ("; and last the held-out lessons while numbers below the tensor were learned." if history.refined else "."),
        both(lambda width: _draw(history, width)),
        Table(["proposal", "value", "95 %", "best so far", "kind"], rows),
    )


def _short(value: float | None) -> str:
    return "failed" if value is None else short(value)


def _half(tried: Tried) -> str:
    return f"± {short(tried.half)}" if tried.half else ""


def _draw(history: History, width: float) -> Markup:
    known = ((_trials, history.tried), (_losses, history.learned), (_refined, history.refined))
    panels = [panel for panel, there in known if there]
    height = len(panels) * (PANEL + GAP) + 6
    drawing = Drawing(width, height, "History of the search", _said(history))
    across = Axis(-0.5, history.last + 0.5, LEFT, width - RIGHT)
    for i, panel in enumerate(panels):
        top = 22 + i * (PANEL + GAP)
        panel(drawing, history, across, top, top + PANEL - 30)
        if i + 1 == len(panels) or panels[i + 1] is _refined:
            label = "step below the tensor" if panel is _refined else "number of the proposal"
            drawing.text((LEFT + width - RIGHT) / 2, top + PANEL + 8, label, "muted", at="middle")
    return drawing.markup()


def _said(history: History) -> str:
    best = next((t.best for t in reversed(history.tried) if t.best is not None), None)
    ended = "" if best is None else f"; the best of them reaches {short(best)}"
    return f"{len(history.tried)} trials and {len(history.learned)} measured losses{ended}"


def _frame(drawing: Drawing, across: Axis, up: Axis, title: str) -> None:
    drawing.text(0, up.end - 8, title, "label")
    for tick in up.ticks(4):
        drawing.line(across.start, up(tick), across.end, up(tick), "grid")
        drawing.text(LEFT - 6, up(tick) + 4, number(tick), "muted", at="end")
    for tick in across.ticks(6):
        if tick == int(tick) and tick >= 0:
            drawing.text(across(tick), up.start + 16, f"{tick:.0f}", "muted", at="middle")


def _trials(drawing: Drawing, history: History, across: Axis, top: float, bottom: float) -> None:
    values = [t.value for t in history.tried if t.value is not None]
    middle, most = (median(values), max(values)) if values else (0.0, 0.0)
    floor = middle - 4 * (most - middle) if most > middle else -math.inf  # a few far misses may not rule the picture
    shown = [v for v in values if v >= floor] or values
    halves = [s * t.half for t in history.tried if t.value in shown for s in (-1, 1)]
    up = axis([*shown, *(v + h for v in (most, min(shown, default=0.0)) for h in halves)], bottom, top)
    _frame(drawing, across, up, "objective on the search items")
    best = [(t.number, t.best) for t in history.tried if t.best is not None]
    steps: list[tuple[float, float]] = []
    for n, value in best:
        steps += [(across(n), steps[-1][1])] if steps else []
        steps.append((across(n), up(value)))
    drawing.path([*steps, (across.end, steps[-1][1])] if steps else [], "best")
    for t in history.tried:
        x = across(t.number)
        if t.value is None:
            drawing.path([(x - 4, bottom - 8), (x + 4, bottom)], "failed", tip=f"trial {t.number}: failed")
            drawing.path([(x - 4, bottom), (x + 4, bottom - 8)], "failed")
            continue
        drawing.line(x, up(t.value - t.half), x, up(t.value + t.half), "whisker")
        tip = f"trial {t.number}: {short(t.value)} {_half(t)}"
        drawing.dot(x, up(t.value), 4, "trial" if t.feasible else "infeasible", tip=tip)


def _losses(drawing: Drawing, history: History, across: Axis, top: float, bottom: float) -> None:
    held_out = [s for s in history.learned if s.held_out]
    up = axis([s.loss for s in history.learned], bottom, top)
    _frame(drawing, across, up, "loss of the gradient")
    for s in history.learned:
        if not s.held_out:
            drawing.dot(across(s.number), up(s.loss), 2, "batch")
    _line(drawing, held_out, across, up, "proposal")


def _refined(drawing: Drawing, history: History, across: Axis, top: float, bottom: float) -> None:
    across = Axis(0, 1.03 * max(1, history.refined[-1].number), LEFT, across.end)  # room for the last label
    up = axis([s.loss for s in history.refined], bottom, top)
    _frame(drawing, across, up, "held-out loss below the tensor")
    _line(drawing, history.refined, across, up, "step")


def _line(drawing: Drawing, measured: Sequence[Learned], across: Axis, up: Axis, what: str) -> None:
    drawing.path([(across(s.number), up(s.loss)) for s in measured], "held-out")
    for s in measured:
        tip = f"after {what} {s.number}: held-out loss {number(s.loss)}"
        drawing.dot(across(s.number), up(s.loss), 3.5, "held-out-dot", tip=tip)
