"""Files that appear whole or not at all, and where the shipped ones are."""

import os
from collections.abc import Iterable
from pathlib import Path

from mergeopt.errors import InputError, MergeoptError, did_you_mean


def write_text(path: Path, text: str) -> None:
    """Writes `text` under a temporary name and renames it into place: no reader ever sees half of it.

    Raises:
        MergeoptError: disk full, no permission.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MergeoptError(f"{path}: cannot be written ({error.strerror})") from error


def sweep(folder: Path) -> None:
    """Removes what `write_text` and the like left half-written in `folder` when their process was killed."""
    for path in folder.glob(".*.tmp"):
        if is_temporary(path) and not _alive(int(path.name.split(".")[-2])):
            path.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Is it a small file on its way to its name: ``.config.json.<process>.tmp``?"""
    return path.name.startswith(".") and path.name.endswith(".tmp") and path.name.split(".")[-2].isdigit()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def remove_files(paths: Iterable[Path]) -> None:
    """Removes files, those that are there. Raises MergeoptError where that is not allowed."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise MergeoptError(f"{path}: cannot be removed ({error.strerror})") from error


def size_text(count: int) -> str:
    """Bytes for people: ``24 kB``, ``3.1 MB``, ``14.48 GB``."""
    for unit, word, digits in ((1e9, "GB", 2), (1e6, "MB", 1)):
        if count >= unit:
            return f"{count / unit:.{digits}f} {word}"
    return f"{-(-count // 1000)} kB"


def cache_folder() -> Path:
    """Where things that are expensive to make are kept between runs: MERGEOPT_CACHE, else the user's cache folder."""
    given = os.environ.get("MERGEOPT_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mergeopt"


def shipped(kind: str) -> Path:
    """The folder of shipped files: "search_spaces" or "evals", in a checkout or in an installed package."""
    package = Path(__file__).parent
    installed = package / "_shipped" / kind
    return installed if installed.is_dir() else package.parent / kind


def find_file(name: str, near: Path | None, kind: str) -> Path:
    """A YAML file by path or by the name of a shipped one.

    The working folder first, then `near` (the folder of the file that names it), then the shipped files, where
    "uniform-weights" finds uniform-weights.yml and "evals/data/sort.prompts.jsonl" the file of that name.

    Raises:
        InputError: nothing found, or two different files.
    """
    given = Path(name).expanduser()
    places = [given] if given.is_absolute() or near is None else [given, near / given]
    found = list(dict.fromkeys(place.resolve() for place in places if place.is_file()))
    if len(found) > 1:
        raise InputError(f"{name!r} is ambiguous: {found[0]} and {found[1]}", remedy="give the full path")
    if found:
        return next(place for place in places if place.is_file())
    folder = shipped(kind)
    known = {path.stem: path for path in sorted(folder.glob("*.y*ml"))}
    if given.stem in known and given.name in (given.stem, known[given.stem].name):
        return known[given.stem]
    if given.parts[:1] == (kind,) and (folder.parent / given).is_file():  # what a shipped file names beside it
        return folder.parent / given
    siblings = {path.name for place in places if place.parent.is_dir() for path in place.parent.glob("*.y*ml")}
    remedy = did_you_mean(given.name, siblings)
    if not remedy or not remedy.startswith("did you mean"):
        remedy = did_you_mean(given.stem, tuple(known))
    raise InputError(f"no such file: {name}", remedy=remedy)
