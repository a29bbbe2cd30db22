"""What one sees while something runs: bars on a terminal, plain lines when piped, nothing when quiet."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mergeopt.errors import visible
from mergeopt.study.events import Event, Notice, Phase, Scored, StepDone, TrialDone, Written

WORDS = {
    "references": "scoring parents and fixed recipes",
    "lessons": "asking the teachers",
    "search": "searching",
    "refine": "learning below the tensor",
    "select": "scoring the finalists on held-out items",
    "report": "scoring the final table on fresh items",
    "write": "writing the winner",
}


def _console() -> Console:
    return Console(stderr=True)


def _ignore(*_: object) -> None:
    """Progress that nobody watches."""


@contextmanager
def byte_bar(words: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar of bytes; gives the function that advances it."""
    console = _console()
    if quiet or not console.is_terminal:
        yield _ignore
        return
    columns = (TextColumn(words), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(words, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def step_bars(words: str, *, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar per named piece of work; gives ``progress(name, done, steps)``."""
    console = _console()
    if quiet:
        yield _ignore
        return
    if not console.is_terminal:

        def line(name: str, done: int, steps: int) -> None:
            if done == steps:
                console.print(visible(f"{words} {name}: {steps} steps"), highlight=False, markup=False)

        yield line
        return
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, Any] = {}

        def step(name: str, done: int, steps: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=steps)
            progress.update(tasks[name], completed=done)

        yield step


@contextmanager
def working(words: str, *, quiet: bool) -> Iterator[None]:
    """A spinner."""
    console = _console()
    if quiet or not console.is_terminal:
        yield
        return
    with console.status(words):
        yield


@contextmanager
def counting(words: str, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A running count, of work whose end is not known; gives the function that advances it."""
    console = _console()
    if quiet or not console.is_terminal:
        yield _ignore
        return
    with Progress(TextColumn(words), TextColumn("{task.completed}"), console=console, transient=True) as progress:
        task = progress.add_task(words, total=None)
        yield lambda count: progress.advance(task, count)


class _Count(ProgressColumn):
    """``12/60``, or of a phase whose steps are bytes ``1.2/2.5 GB``."""

    def render(self, task: Task) -> Text:
        unit, word = (1e9, " GB") if task.fields["of_bytes"] else (1, "")
        parts = [task.completed] if task.total is None else [task.completed, task.total]
        return Text("/".join(f"{part / unit:.{1 if word else 0}f}" for part in parts) + word)


class StudyDisplay:
    """Shows a study's events; a listener and a context manager."""

    def __init__(self, job: Any, *, quiet: bool) -> None:
        self._console, self._quiet = _console(), quiet
        self._live = self._console.is_terminal and not quiet
        self._progress: Progress | None = None
        self._task: Any = None
        self._begun = time.monotonic()
        self._trials = self._steps = 0
        branches = job.space.branches
        self._size = f"{max(len(b.dimensions) for b in branches)} numbers" + (
            f" in {len(branches)} branches" if len(branches) > 1 else ""
        )

    def __enter__(self) -> "StudyDisplay":
        if self._live:
            columns = (
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24),
                _Count(), TextColumn("{task.fields[best]}"), TimeRemainingColumn(),
            )  # fmt: skip
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        if self._quiet:
            return
        match event:
            case Phase():
                self._phase(event)
            case Notice(text):
                self._line(f"note: {text}", style="yellow")
            case TrialDone():
                self._trial(event)
            case StepDone():
                self._step(event)
            case Scored():
                self._advance(1)
            case Written(count):
                self._advance(count)

    def _phase(self, event: Phase) -> None:
        words = WORDS[event.name] + (f" {self._size}" if event.name == "search" else "")
        if self._progress is None:
            self._line(words)
            return
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(words, total=event.steps, best="", of_bytes=event.name == "write")

    def _trial(self, event: TrialDone) -> None:
        self._trials += 1
        best = "" if event.best is None else f"best {event.best:.3f}"
        if self._progress is not None:
            self._progress.update(self._task, completed=self._trials, best=best)
        elif self._trials % 10 == 0:
            value = "failed" if event.value is None else f"{event.value:.3f}"
            self._line(f"trial {self._trials}: {value}, {best} ({time.monotonic() - self._begun:.0f} s)")

    def _step(self, event: StepDone) -> None:
        """Held-out losses are worth a line; a mini-batch's loss is only noise."""
        self._steps += event.gradient
        if event.gradient or event.value is None:
            return
        text = f"step {self._steps}, loss {-event.value:.3f}"
        if self._progress is not None:
            self._progress.update(self._task, best=text)
        else:
            self._line(f"{text} ({time.monotonic() - self._begun:.0f} s)")

    def _advance(self, count: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(visible(text), style=style, highlight=False, markup=False, soft_wrap=not self._live)
