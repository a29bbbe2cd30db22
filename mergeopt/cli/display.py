"""What one sees while something runs: bars on a terminal, plain lines when piped, nothing when quiet.

What one sees of a search stands in `study_display`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from mergeopt.errors import visible


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
