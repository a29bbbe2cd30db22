"""From what a recipe calls a model to the folder it lies in.

The working folder first, as in mergekit, then the recipe's own folder; two different folders of one name are an error,
not a guess. What is no folder is a Hub id: the local cache first, the network only where the cache has no weights.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from mergeopt.errors import InputError, did_you_mean
from mergeopt.recipe.recipe import ModelRef

# What a merge needs of a repository: never .bin weights, never code.
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.spm"]
_REPO_ID = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*")


def locate_model(ref: ModelRef, near: Path | None = None) -> Path:
    """The folder of a model.

    Args:
        ref: Path and revision as the recipe gives them.
        near: The folder of the file that names the model, searched after the working folder.

    Raises:
        InputError: nothing of that name, two different folders of that name, or a file.
    """
    found: dict[Path, Path] = {}
    try:
        path = Path(ref.path).expanduser()
        places = dict.fromkeys(base / path for base in (Path.cwd(), near) if base is not None)
        for place in places:
            if place.exists():
                found.setdefault(place.resolve(), place)
    except (OSError, RuntimeError) as fault:  # no permission, too long a name, an unknown user after ~
        raise InputError(f"{ref.path!r} cannot be looked up: {fault}") from None
    if len(found) > 1:
        both = " and ".join(str(place) for place in found.values())
        raise InputError(f"{ref.path!r} is ambiguous: {both}", remedy="write an absolute path")
    if found:
        return _local(ref, next(iter(found.values())))
    if ref.path[:1] in {".", "/", "~"} or not _is_repo_id(ref.path):
        raise InputError(f"no such folder: {ref.path!r}", remedy=_close_names(path, places))
    return _from_hub(ref, _close_names(path, places))


def _local(ref: ModelRef, folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(f"{ref.path!r} is a file", remedy="give the model's folder")
    if ref.revision is not None:
        problem = f"{ref.path!r} is a local folder and has no revision {ref.revision!r}"
        raise InputError(problem, remedy=f"write {ref.path!r} alone")
    return folder


def _is_repo_id(text: str) -> bool:
    return len(text) <= 96 and "--" not in text and ".." not in text and bool(_REPO_ID.fullmatch(text))


def _close_names(path: Path, places: Iterable[Path]) -> str | None:
    """``did you mean 'zoo/sort'?`` where a sibling of the missing folder has nearly its name."""
    for place in places:
        if place.parent.is_dir():
            names = {child.name for child in place.parent.iterdir() if child.is_dir()}
            hint = did_you_mean(path.name, names)
            if hint and hint.startswith("did you mean"):
                return hint
    return None


def _from_hub(ref: ModelRef, hint: str | None) -> Path:
    from huggingface_hub import snapshot_download

    cause: Exception | None = None
    for cached_only in (True, False):
        try:
            folder = Path(
                snapshot_download(
                    ref.path, revision=ref.revision, allow_patterns=_HUB_FILES, local_files_only=cached_only
                )
            )
        except (OSError, ValueError) as fault:  # what every error of the Hub client derives from
            cause = fault
            continue
        if not cached_only or any(folder.glob("*.safetensors")):  # a tokenizer alone may have been cached before
            return folder
    command = f"hf download {ref.path}" + (f" --revision {ref.revision}" if ref.revision else "")
    remedy = f"give a local path, or run `{command}` on a connected machine"
    raise InputError(f"{ref} is not on disk", remedy=f"{hint} Otherwise {remedy}" if hint else remedy) from cause
