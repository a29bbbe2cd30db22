"""A search as one sees it: a live view on a terminal, plain lines when piped, JSON lines for machines, or nothing."""

import json
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live

from mergeopt.cli.watch import Watch, duration, screen_lines, with_error
from mergeopt.errors import visible
from mergeopt.study.events import Event, Notice, Phase, Scored, StepDone, TrialDone
from mergeopt.study.log import plain
from mergeopt.study.record import StudyRecord
from mergeopt.study.searchfile import Learn

WORDS = {
    "references": "scoring parents and fixed recipes",
    "lessons": "asking the teachers",
    "search": "searching",
    "refine": "learning below the tensor",
    "select": "scoring the finalists on held-out items",
    "report": "scoring the final table on fresh items",
    "write": "writing the winner",
}
SILENT = 60.0  # seconds without a line, at most, while trials are measured
LINE_EVERY = 10  # trials
FRAMES = 4  # a second


class StudyDisplay:
    """Shows a study's events; a listener and a context manager.

    Args:
        job: The search.
        record: Of the study, which may have been begun before.
        quiet: Show nothing.
        lines: Told of every event as one line of JSON instead; nothing else is shown.
    """

    def __init__(
        self, job: Any, record: StudyRecord, *, quiet: bool = False, lines: Callable[[str], object] | None = None
    ) -> None:
        self._console, self._lines = Console(stderr=True), lines
        self._quiet = quiet or lines is not None
        self._watch = _watch(job, record)
        self._view: Live | None = None
        self._lock = threading.Lock()  # the live view is drawn by a thread of its own
        self._last = time.monotonic()
        branches = len(job.space.branches)
        self._size = f"{self._watch.numbers} numbers" + (f" in {branches} branches" if branches > 1 else "")

    def __enter__(self) -> "StudyDisplay":
        if self._console.is_terminal and not self._quiet:
            self._view = Live(self, console=self._console, refresh_per_second=FRAMES, transient=True)
            self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._view is not None:
            self._view.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            self._watch.now = time.monotonic()
            yield Group(*screen_lines(self._watch, options.max_width, ascii_only=options.ascii_only))

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._watch.add(event, time.monotonic())
        if self._lines is not None:
            data = as_data(event)
            if data:
                self._lines(json.dumps(plain(data)))
        elif isinstance(event, Notice) and not self._quiet:
            self._say(f"note: {event.text}", style="yellow")
        elif self._view is None and not self._quiet:
            self._line_of(event)

    def _line_of(self, event: Event) -> None:
        """What is worth a line where nothing is live."""
        spent = duration(self._watch.now - self._watch.begun)
        match event:
            case Phase(name):
                self._say(WORDS[name] + (f" {self._size}" if name == "search" else ""))
            case TrialDone():
                better = event.value is not None and event.value == event.best
                due = self._watch.trials % LINE_EVERY == 0 or self._watch.now - self._last > SILENT
                if due or (better and self._watch.trials > 1):
                    value = "failed" if event.value is None else with_error(event.value, event.error)
                    best = "none feasible yet" if event.best is None else with_error(event.best, event.best_error)
                    self._say(f"trial {self._watch.trials}: {value}, best {best} ({spent})")
            case StepDone() if not event.gradient and event.value is not None:
                level = f", by {event.level}" if event.level else ""
                self._say(f"step {self._watch.steps}{level}, held-out loss {-event.value:.3f} ({spent})")

    def _say(self, text: str, style: str = "") -> None:
        self._last = time.monotonic()
        live = self._view is not None
        self._console.print(visible(text), style=style, highlight=False, markup=False, soft_wrap=not live)


def _watch(job: Any, record: StudyRecord) -> Watch:
    options, learn = job.file.optimize, job.file.learn or Learn()
    there = {"lessons": options.learns, "refine": not options.portable}
    found = Watch(
        numbers=max(len(branch.dimensions) for branch in job.space.branches),
        per_trial=sum(info.count("search") for info in job.suite.evals),
        most_steps=learn.steps if options.learns else 0,
        phases=[name for name in WORDS if there.get(name, True)],
        now=time.monotonic(),
    )
    found.recall(record.trials, record.steps)
    return found


def as_data(event: Event) -> dict[str, Any]:
    """An event as JSON data; nothing for bytes written, of which there are many."""
    match event:
        case Phase(name, steps):
            return {"event": "phase", "phase": name, "steps": steps}
        case Notice(text):
            return {"event": "notice", "text": text}
        case Scored():
            scores = {score.name: score.value for score in event.scores}
            return {"event": "scored", "name": event.name, "split": event.split, "scores": scores}
        case StepDone():
            loss = None if event.value is None else -event.value
            return {
                "event": "step", "number": event.number, "loss": loss, "held_out": not event.gradient,
                "level": event.level, "seconds": event.seconds, "tokens": event.tokens,
            }  # fmt: skip
        case TrialDone():
            return {
                "event": "trial", "number": event.number, "value": event.value, "error": event.error,
                "best": event.best, "best_error": event.best_error, "seconds": event.seconds, "tokens": event.tokens,
            }  # fmt: skip
    return {}
