"""What others know a merge's models by: the Hub id, or `local:` and the last part of a path; never a local path."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.merge.sources import Checkpoints
from mergeopt.recipe.recipe import ModelRef


@dataclass(frozen=True)
class Names:
    """The public names of a merge's models.

    Attributes:
        models: What the recipe calls a model -> its public name; with an adapter, both.
        parts: Models and adapters by themselves, by path.
        hub: Ids of those that come from the Hub, in order.
        folders: Public name -> folder, of each part.
    """

    models: Mapping[str, str]
    parts: Mapping[str, str]
    hub: tuple[str, ...]
    folders: Mapping[str, Path]

    @classmethod
    def of(cls, checkpoints: Checkpoints, refs: Iterable[ModelRef]) -> "Names":
        """The names of `refs`, which are open as `checkpoints`; `refs` without files of their own have none."""
        opened = {ref: checkpoints[ref] for ref in refs if checkpoints[ref].files}
        parts = [part for ref, checkpoint in opened.items() for part in _parts(ref, checkpoint)]
        ids = [_hub_id(folder) or part.path for part, folder in parts if is_from_hub(part, folder) or _hub_id(folder)]
        return cls(
            models={str(ref): "+".join(card_name(*part) for part in _parts(ref, c)) for ref, c in opened.items()},
            parts={part.path: card_name(part, folder) for part, folder in parts},
            hub=tuple(dict.fromkeys(ids)),
            folders={card_name(part, folder): folder for part, folder in parts},
        )

    def public(self, data: Any) -> Any:
        """The data of a recipe with every model under its public name."""
        known = {**self.parts, **self.models}
        if isinstance(data, dict):
            return {key: self.public(value) for key, value in data.items()}
        if isinstance(data, list):
            return [self.public(value) for value in data]
        return known.get(data, data) if isinstance(data, str) else data

    def within(self, name: str) -> str:
        """The name of one of a search's numbers (``runs/a.weight[mlp].0``), its model under its public name."""
        for model in sorted(self.models, key=len, reverse=True):
            if name.startswith(model) and name[len(model) : len(model) + 1] in (".", "[", "@"):
                return self.models[model] + name[len(model) :]
        return last_part(name) if "/" in name or "\\" in name else name


def is_from_hub(ref: ModelRef, folder: Path) -> bool:
    """Does the model lie in the Hub's cache, under the name the recipe calls it by?"""
    return f"models--{ref.path.replace('/', '--')}" in folder.parts


def card_name(ref: ModelRef, folder: Path) -> str:
    """The Hub id, or `local:<last part>` of a folder."""
    if is_from_hub(ref, folder):
        return str(ref)
    found = _hub_id(folder)
    return f"local:{last_part(ref.path)}" if found is None else f"{found}@{folder.name}"


def last_part(path: str) -> str:
    """What stands after the last separator, of Windows too."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _hub_id(folder: Path) -> str | None:
    """The repository whose snapshot in a Hub cache `folder` is."""
    repository = folder.parent.parent.name
    cached = folder.parent.name == "snapshots" and repository.startswith("models--")
    return repository.removeprefix("models--").replace("--", "/") if cached else None


def _parts(ref: ModelRef, checkpoint: Checkpoint) -> list[tuple[ModelRef, Path]]:
    """Model and adapter, each with the folder of its weights."""
    model = (ref.bare, checkpoint.files[0].parent)
    return [model] if ref.adapter is None else [model, (ref.adapter, checkpoint.files[-1].parent)]
