"""What commands share: faults as one line and an exit code, and the folder that output goes to.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
"""

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import typer

from mergeopt.checkpoint.staging import is_leftover
from mergeopt.errors import InputError, MergeoptError

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
            return function(*args, **kwargs)
        except InputError as error:
            fail(str(error))
            raise typer.Exit(2) from None
        except MergeoptError as error:
            fail(str(error))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            fail("interrupted")
            raise typer.Exit(130) from None

    return run


def quiet_libraries() -> None:
    """Other libraries' chatter is not ours to show: bars, advice and deprecations of their own."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    for name in ("lm_eval", "datasets", "transformers", "optuna", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def say(text: str, *, err: bool = False) -> None:
    """Prints a line or more, whatever names from files may hold in it."""
    typer.echo(visible(text), err=err)


def visible(text: str) -> str:
    """`text` with every character that could command a terminal spelled out: an escape code as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def fail(text: str) -> None:
    """`error: …` on stderr, one line, no markup."""
    typer.echo(typer.style("error: ", fg="red", bold=True) + visible(text), err=True)


def warn(notices: Iterable[str], *, strict: bool = False) -> None:
    """Notices on stderr; with `strict` the first one is an error."""
    for text in notices:
        if strict:
            raise InputError(text)
        typer.echo(typer.style("note: ", fg="yellow") + visible(text), err=True)


def screen() -> "Console":
    """Where tables go: as wide as the terminal; as wide as they are where the output is piped."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def check_out(out: Path, *, force: bool, resume: bool = False) -> None:
    """Refuses to write into a folder that holds something.

    Raises:
        InputError: not empty without `force` or `resume`, or not a folder.
    """
    if out.exists() and not out.is_dir():
        raise InputError("is a file, not a folder", where=str(out), remedy="give another OUT")
    if out.is_dir() and not all(map(is_leftover, out.iterdir())) and not (force or resume):
        begun = (out / "search" / "log.jsonl").exists()
        remedy = "go on with --resume, or begin anew with --force" if begun else "give another folder, or --force"
        raise InputError("is not empty", where=str(out), remedy=remedy)
