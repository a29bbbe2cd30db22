"""What commands share: faults as one line and an exit code, and the folder that output goes to.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted, 143 terminated.
"""

import functools
import logging
import os
import shutil
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer

from mergeopt.checkpoint.staging import is_leftover
from mergeopt.errors import InputError, MergeoptError, visible

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turns the library's faults into one line on stderr and an exit code; a bug keeps its traceback."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            quiet_libraries()
            with _terminable():
                return function(*args, **kwargs)
        except InputError as error:
            fail(str(error))
            raise typer.Exit(2) from None
        except MergeoptError as error:
            fail(str(error))
            raise typer.Exit(1) from None
        except KeyboardInterrupt as error:
            fail("interrupted")
            for hint in error.args:  # unfolded: it is to be copied
                say(str(hint), err=True)
            raise typer.Exit(130) from None
        except _Terminated:
            fail("terminated")
            raise typer.Exit(128 + signal.SIGTERM) from None

    return run


class _Terminated(BaseException):
    """`kill`, a batch system's time limit: an end like Ctrl-C, after which nothing may lie around."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Lets SIGTERM end a command through its ``finally`` clauses."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def quiet_libraries() -> None:
    """Other libraries' chatter is not ours to show: bars, advice and deprecations of their own."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    for name in ("lm_eval", "datasets", "transformers", "optuna", "huggingface_hub", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def say(text: str, *, err: bool = False) -> None:
    """Prints a line or more, whatever names from files may hold in it."""
    typer.echo(visible(text), err=err)


def fail(text: str) -> None:
    """`error: …` on stderr, one line, no markup."""
    _labelled("error: ", text, fg="red", bold=True)


def warn(notices: Iterable[str], *, strict: bool = False) -> None:
    """Notices on stderr; with `strict` the first one is an error."""
    for text in notices:
        if strict:
            raise InputError(text)
        _labelled("note: ", text, fg="yellow")


def _labelled(label: str, text: str, **style: Any) -> None:
    """One line; on a terminal folded between words instead of anywhere."""
    text = visible(text)
    if sys.stderr.isatty():
        columns = shutil.get_terminal_size().columns
        text = textwrap.fill(
            text, columns, initial_indent=" " * len(label), subsequent_indent="  ",
            break_long_words=False, break_on_hyphens=False,
        ).lstrip()  # fmt: skip
    typer.echo(typer.style(label, **style) + text, err=True)


def screen(piped: int = 200) -> "Console":
    """Where tables go: as wide as the terminal; `piped` columns, by default as wide as they are, where it is piped."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=piped)


def check_out(out: Path, *, force: bool, resume: bool = False) -> None:
    """Refuses to write into a folder that holds something.

    Raises:
        InputError: not empty without `force` or `resume`, or not a folder.
    """
    try:
        if out.exists() and not out.is_dir():
            raise InputError("is a file, not a folder", where=str(out), remedy="give another OUT")
        taken = out.is_dir() and not all(map(is_leftover, out.iterdir()))
    except OSError as fault:  # a name too long, a folder that may not be read
        raise InputError(f"cannot be looked at: {fault.strerror}", where=str(out), remedy="give another OUT") from None
    if taken and not (force or resume):
        begun = (out / "search" / "log.jsonl").exists()
        remedy = "go on with --resume, or begin anew with --force" if begun else "give another folder, or --force"
        raise InputError("is not empty", where=str(out), remedy=remedy)
