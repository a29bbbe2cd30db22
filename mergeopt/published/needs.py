"""What making a published merge again takes: which models are here, what would be downloaded, disk, memory, time."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.errors import InputError
from mergeopt.files import size_text
from mergeopt.published.entry import BYTES, Entry, Parent
from mergeopt.recipe.recipe import ModelRef

DISK_RATE = 0.5e9  # bytes merged per second, of a plain disk
NETWORK_RATE = 50e6  # bytes per second


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the recipe: its folder where it is on this disk, and its size there or as published."""

    ref: ModelRef
    folder: Path | None
    nbytes: int
    numbers: int
    gated: bool


def models(entry: Entry, moved: Mapping[str, Path]) -> tuple[Model, ...]:
    """Every model that the recipe names; `moved`: where some are, by name.

    Raises:
        InputError: a damaged model, or `moved` names one that the recipe does not.
    """
    known = {str(ref) for ref in entry.parents} | {ref.path for ref in entry.parents}
    for name in moved:
        if name not in known:
            raise InputError(f"--models {name}: the recipe names no such model", remedy=", ".join(sorted(known)))
    return tuple(_model(ref, entry, moved) for ref in entry.parents)


def _model(ref: ModelRef, entry: Entry, moved: Mapping[str, Path]) -> Model:
    stated: Parent = entry.facts.models.get(str(ref)) or entry.facts.models[ref.path]
    folder = moved.get(str(ref)) or moved.get(ref.path) or _on_disk(ref)
    if folder is None:
        return Model(ref, None, stated.nbytes, stated.parameters, stated.gated)
    checkpoint = Checkpoint.open(folder, name=str(ref))
    numbers = sum(tensor.numel for tensor in checkpoint.tensors.values())
    return Model(ref, folder, checkpoint.nbytes, numbers, stated.gated)


def _on_disk(ref: ModelRef) -> Path | None:
    """A folder of that name, or a whole snapshot in the Hub's cache."""
    if Path(ref.path).expanduser().is_dir():
        return Path(ref.path).expanduser()
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(ref.path, "config.json", revision=ref.revision)
    except ValueError:  # no id that a repository could have
        return None
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    whole = any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
    return folder if whole else None


def missing(found: tuple[Model, ...]) -> InputError | None:
    """What must be downloaded first, in one line; None where all is here."""
    absent = [model for model in found if model.folder is None]
    if not absent:
        return None
    listed = ", ".join(f"{model.ref} ({size_text(model.nbytes)}{', gated' * model.gated})" for model in absent)
    commands = " && ".join(_command(model.ref) for model in absent)
    gated = " (ask for access on its page first)" if any(model.gated for model in absent) else ""
    return InputError(f"not on disk: {listed}", remedy=f"run `{commands}`{gated}, or give --models NAME=FOLDER")


def needs_lines(entry: Entry, found: tuple[Model, ...], out: Path) -> list[str]:
    """What a dry run says."""
    absent = [model for model in found if model.folder is None]
    width = max(len(str(model.ref)) for model in found)
    lines = [f"{entry.name}: {entry.facts.title}"]
    for model in found:
        where = f"in {model.folder}" if model.folder else f"to download{', gated' * model.gated}"
        lines.append(f"model     {model.ref!s:<{width}}  {size_text(model.nbytes):>9}  {where}")
    download = sum(model.nbytes for model in absent)
    output = max(model.numbers for model in found) * BYTES.get(entry.recipe.out_dtype or entry.recipe.dtype or "", 2)
    free = shutil.disk_usage(next(path for path in (out, *out.absolute().parents) if path.exists())).free
    short = "" if free > output + download else ": too little"
    count = len(entry.facts.evals)
    merging = (sum(model.nbytes for model in found) + output) / DISK_RATE
    seconds = merging + download / NETWORK_RATE
    lines += [
        f"download  {size_text(download) if download else 'nothing'}",
        f"disk      {size_text(output + download)}, of it the merge {size_text(output)}; {size_text(free)} free{short}",
        f"memory    under 1 GB to merge; about {size_text(round(output * 1.2))} to evaluate, one model after the other",
        f"time      about {_words(seconds)} to download (50 MB/s) and merge; then {count} evals of each model",
        f"evals     {', '.join(each.eval for each in entry.facts.evals)}: lm-eval downloads their data",
    ]
    lines += [f"claimed   {each.by}: {each.source}" for each in entry.facts.claims]
    lines += [f"note      {text}" for text in entry.facts.notes]
    return lines


def _command(ref: ModelRef) -> str:
    return f"hf download {ref.path}" + (f" --revision {ref.revision}" if ref.revision else "")


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
