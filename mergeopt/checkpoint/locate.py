"""From what a recipe calls a model to the folder it lies in.

The working folder first, as in mergekit, then the recipe's own folder; two different folders of one name are an error,
not a guess. What is no folder is a Hub id: the local cache first, the network only where the cache has no weights.
A folder whose name holds + or @ wins over taking that name apart.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mergeopt.errors import InputError, did_you_mean
from mergeopt.recipe.recipe import ModelRef

# What a merge needs of a repository: never code, and pickles only where there is nothing else.
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.spm"]
_HUB_PICKLES = ["pytorch_model*.bin", "adapter_model.bin"]
_REPO_ID = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*")


@dataclass(frozen=True, slots=True)
class Located:
    """Where a model lies: its folder, and that of the adapter that the recipe adds."""

    folder: Path
    adapter: Path | None = None


def locate(ref: ModelRef, near: Path | None = None) -> Located:
    """The folders of a model and its adapter.

    A folder that has the whole text as its name (``runs/llama+alpaca``) is the model.

    Raises:
        InputError: as `locate_model`; also where a model and an adapter lie there as well as such a folder.
    """
    name = str(ref)
    whole = None if name == ref.path else _found(ModelRef(name), near)
    if whole is not None and ref.adapter is not None:
        parts = [_found(part, near) for part in (ref.bare, ref.adapter)]
        if all(parts):
            raise InputError(
                f"{name!r} is a folder, {whole}, and also the adapter {parts[1]} on the model {parts[0]}",
                remedy=f"write {{model: {{path: {name!r}}}}} for the folder, or rename it",
            )
    if whole is not None:
        return Located(_local(ModelRef(name), whole))
    return Located(locate_model(ref.bare, near), None if ref.adapter is None else locate_model(ref.adapter, near))


def commits(files: Iterable[Path]) -> dict[str, str]:
    """Repository -> commit, of the files that lie in a Hub cache (``models--org--name/snapshots/<commit>/file``)."""
    found = {}
    for file in files:
        snapshot = file.parent
        repository = snapshot.parent.parent.name
        if snapshot.parent.name == "snapshots" and repository.startswith("models--"):
            found[repository.removeprefix("models--").replace("--", "/")] = snapshot.name
    return found


def locate_model(ref: ModelRef, near: Path | None = None) -> Path:
    """The folder of a model, or of an adapter.

    Args:
        ref: Path and revision as the recipe gives them; an adapter in it is not looked at.
        near: The folder of the file that names the model, searched after the working folder.

    Raises:
        InputError: nothing of that name, two different folders of that name, or a file.
    """
    found = _found(ref, near)
    if found is not None:
        return _local(ref, found)
    path = Path(ref.path).expanduser()
    places = _places(path, near)
    if ref.path[:1] in {".", "/", "~"} or not _is_repo_id(ref.path):
        raise InputError(f"no such folder: {ref.path!r}", remedy=_close_names(path, places))
    return _from_hub(ref, _close_names(path, places))


def _found(ref: ModelRef, near: Path | None) -> Path | None:
    """What lies on the disk under the path of `ref`."""
    found: dict[Path, Path] = {}
    try:
        for place in _places(Path(ref.path).expanduser(), near):
            if place.exists():
                found.setdefault(place.resolve(), place)
    except (OSError, RuntimeError) as fault:  # no permission, too long a name, an unknown user after ~
        raise InputError(f"{ref.path!r} cannot be looked up: {fault}") from None
    if len(found) > 1:
        both = " and ".join(str(place) for place in found.values())
        raise InputError(f"{ref.path!r} is ambiguous: {both}", remedy="write an absolute path")
    return next(iter(found.values()), None)


def _places(path: Path, near: Path | None) -> list[Path]:
    return list(dict.fromkeys(base / path for base in (Path.cwd(), near) if base is not None))


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
    """The snapshot in the local cache, else from the network; pickles only where the repository has nothing else."""
    for patterns, online in ((_HUB_FILES, False), (_HUB_FILES, True), (_HUB_FILES + _HUB_PICKLES, True)):
        try:
            folder = _snapshot(ref, patterns, online=online)
        except (OSError, ValueError) as fault:  # what every error of the Hub client derives from
            if not online:
                continue
            command = f"hf download {ref.path}" + (f" --revision {ref.revision}" if ref.revision else "")
            remedy = f"give a local path, or run `{command}` on a connected machine"
            raise InputError(
                f"{ref} is not on disk", remedy=f"{hint} Otherwise {remedy}" if hint else remedy
            ) from fault
        # a tokenizer alone may have been cached before
        if any(folder.glob("*.safetensors")) or any(file for p in _HUB_PICKLES for file in folder.glob(p)):
            return folder
    return folder


def _snapshot(ref: ModelRef, patterns: list[str], *, online: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(ref.path, revision=ref.revision, allow_patterns=patterns, local_files_only=not online)
    )
