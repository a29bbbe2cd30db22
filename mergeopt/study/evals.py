"""Evals by path, by the name of a shipped one, or by a task name of lm-eval."""

from collections.abc import Sequence
from pathlib import Path

from mergeopt.errors import InputError
from mergeopt.files import find_file
from mergeopt.scoring.custom import PREFIX
from mergeopt.scoring.entry import ObjectiveEntry


def find_eval(name: str, near: Path | None) -> str:
    """A task file's full path; names that are no files here stay what they are, for lm-eval to know.

    Raises:
        InputError: a YAML file that is nowhere, or in two places.
    """
    if name.startswith(PREFIX):
        return name
    try:
        return str(find_file(name, near, "evals").resolve())
    except InputError:
        if name.endswith((".yaml", ".yml")):
            raise
        return name


def with_files(entries: Sequence[ObjectiveEntry], near: Path | None) -> list[ObjectiveEntry]:
    """The entries, their evals found."""
    return [entry.model_copy(update={"eval": find_eval(entry.eval, near)}) for entry in entries]
