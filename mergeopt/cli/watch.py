"""Where a search stands: its events added up, and the few lines that say it. No clock, no terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from mergeopt.report.table import short
from mergeopt.study.events import Event, Phase, Scored, StepDone, TrialDone, Written

PHASES = {
    "references": "references",
    "lessons": "lessons",
    "search": "trials",
    "refine": "below the tensor",
    "select": "select",
    "report": "report",
    "write": "write",
}
BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass
class Watch:
    """The state of one search; times are seconds of any one clock.

    Args:
        numbers: Dimensions searched.
        per_trial: Search items.
        most_steps: Of the gradient, 0 where there is none.
        phases: Those to come, in order.
        now: When it began.
    """

    numbers: int
    per_trial: int
    most_steps: int
    phases: Sequence[str]
    now: float
    begun: float = field(init=False)
    phase: str = ""
    since: float = 0.0  # of the phase
    total: int | None = None
    done: int = 0
    trials: int = 0
    failed: int = 0
    steps: int = 0
    tokens: int = 0
    items: int = 0
    best: float | None = None
    best_error: float | None = None
    curve: list[float] = field(default_factory=list)  # the best after each trial
    first_loss: float | None = None
    loss: float | None = None  # on held-out lessons
    level: str = ""
    learning: bool = False  # the last proposal was a step
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"trial": [], "step": []})  # of the last ones

    def __post_init__(self) -> None:
        self.begun = self.since = self.now

    def recall(self, trials: Sequence[Any], steps: Sequence[Any]) -> None:
        """What a resumed study has done before."""
        for trial in trials:
            self.trials, self.failed = self.trials + 1, self.failed + (trial.value is None)
            if trial.value is not None and trial.violation == 0 and (self.best is None or trial.value > self.best):
                self.best, self.best_error = trial.value, trial.error
            self.curve += [] if self.best is None else [self.best]
        self.steps = sum("gradient" in step.wants for step in steps)
        self.tokens = sum(one.tokens for one in (*trials, *steps))
        self.items = self.per_trial * len(trials)

    def add(self, event: Event, now: float) -> None:
        """An event, and when it came."""
        self.now = now
        match event:
            case Phase(name, steps):
                self.phase, self.total, self.since = name, steps, now
                self.done = self.trials if name == "search" else 0
                self.loss = self.first_loss = None
                self.level = ""
            case Scored():
                self.done += 1
                self.items += sum(len(score.items) for score in event.scores)
            case Written(count):
                self.done += count
            case TrialDone():
                self._trial(event)
            case StepDone():
                self._step(event)

    def _trial(self, event: TrialDone) -> None:
        self.trials, self.failed = self.trials + 1, self.failed + (event.value is None)
        self.done, self.learning = self.trials, False
        self.tokens, self.items = self.tokens + event.tokens, self.items + self.per_trial
        self.best, self.best_error = event.best, event.best_error
        self.curve += [] if event.best is None else [event.best]
        self._took("trial", event.seconds)

    def _step(self, event: StepDone) -> None:
        self.steps += event.gradient
        self.tokens += event.tokens
        self.level, self.learning = event.level or self.level, True
        if self.phase == "refine":
            self.done = event.number
        if not event.gradient and event.value is not None:
            self.loss = -event.value
            self.first_loss = self.loss if self.first_loss is None else self.first_loss
        self._took("step", event.seconds)

    def _took(self, kind: str, seconds: float) -> None:
        self.seconds[kind] = [*self.seconds[kind][-19:], seconds]

    def left(self) -> float | None:
        """Seconds to the end of the phase, about; None: nobody knows."""
        if self.total is None:
            return None
        if self.phase == "search":
            trial = self.seconds["trial"]
            if not trial:
                return None
            steps = max(0, self.most_steps - self.steps) if self.learning else 0
            step = sum(self.seconds["step"]) / max(1, len(self.seconds["step"]))
            return (self.total - self.done) * sum(trial) / len(trial) + steps * step
        spent = self.now - self.since
        return spent / self.done * (self.total - self.done) if self.done else None


def screen_lines(watch: Watch, width: int, *, ascii_only: bool = False) -> list[Text]:
    """The live view, one line each, none wider than `width`."""
    lines = [_phases(watch, width), _bar(watch, width, ascii_only)]
    if watch.trials:
        lines.append(_best(watch, width, ascii_only))
    if watch.steps or watch.loss is not None:
        lines.append(_row("gradient", _gradient(watch)))
    if watch.tokens or watch.items:
        lines.append(_row("used", _used(watch)))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _row(name: str, *parts: str | tuple[str, str]) -> Text:
    return Text.assemble((f"{name:<11}", "dim"), *parts)


def _phases(watch: Watch, width: int) -> Text:
    line, passed = Text(), watch.phase in watch.phases
    for name in watch.phases:
        now = name == watch.phase
        passed = passed and not now
        style = "bold" if now else "green" if passed else "dim"
        line.append("  " if line else "").append(PHASES[name], style)
    spent = duration(watch.now - watch.begun)
    if len(line) + len(spent) + 2 <= width:
        line.append(" " * (width - len(line) - len(spent))).append(spent, "dim")
    return line


def _bar(watch: Watch, width: int, ascii_only: bool) -> Text:
    name = PHASES.get(watch.phase, "starting")
    name = name if len(name) < 11 else "refining"
    if watch.total is None:
        return _row(name, f"{watch.done:,} so far" if watch.done else "at work")
    of_bytes = watch.phase == "write"
    counts = [f"{n / 1e9:.1f}" if of_bytes else f"{n:,}" for n in (watch.done, watch.total)]
    count = f"{counts[0]} of {counts[1]}{' GB' if of_bytes else ''}"
    left = watch.left()
    end = "" if left is None or left < 1 else f"about {duration(left)} left"
    room = width - 11 - len(count) - 2 - (len(end) + 2 if end else 0)
    line = _row(name, count)
    if room >= 8:
        full = round(room * min(1.0, watch.done / max(1, watch.total)))
        signs = "#-" if ascii_only else "━─"
        line.append("  ").append(signs[0] * full, "green").append(signs[1] * (room - full), "dim")
    return line.append("  ").append(end, "dim") if end else line


def _best(watch: Watch, width: int, ascii_only: bool) -> Text:
    if watch.best is None:
        return _row("best", "no trial keeps every constraint yet")
    line = _row("best", (with_error(watch.best, watch.best_error), "bold"))
    if watch.failed:
        line.append(f"  {watch.failed} failed", "red")
    room = min(40, width - len(line) - 3)
    if not ascii_only and room >= 4 and len(watch.curve) > 1:
        line.append("   ").append(sparkline(watch.curve, room), "cyan")
    return line


def with_error(value: float, error: float | None) -> str:
    """``.398 ± .021``"""
    return short(value) if error is None else f"{short(value)} ± {short(error)}"


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as blocks, in at most `width` places; of several in one place the last."""
    places = min(width, len(values))
    shown = [values[(i + 1) * len(values) // places - 1] for i in range(places)]
    low, high = min(shown), max(shown)
    span = high - low or 1.0
    return "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))] for value in shown)


def _gradient(watch: Watch) -> str:
    most = f" of at most {watch.most_steps:,}" if watch.phase == "search" and watch.most_steps >= watch.steps else ""
    text = f"step {watch.steps:,}{most}"
    if watch.level:
        text += f", by {watch.level}"
    if watch.loss is not None and watch.first_loss is not None:
        text += f", held-out loss {watch.loss:.3f} (first {watch.first_loss:.3f})"
    return text


def _used(watch: Watch) -> str:
    numbers = f"{watch.numbers:,} number{'s' * (watch.numbers != 1)}"
    tokens = f"{watch.tokens:,} tokens, " if watch.tokens else ""
    return f"{tokens}{watch.items:,} items ({watch.per_trial:,} a trial), {numbers}"


def duration(seconds: float) -> str:
    """``45 s``, ``4 min 05 s``, ``2 h 10 min``"""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
