"""What a model folder knows of its parents: their public names, and where a text would give away a local path."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.jsonfile import read_json_object
from mergeopt.errors import InputError
from mergeopt.merge.lock import LOCK_FILE
from mergeopt.merge.sources import open_models
from mergeopt.recipe.recipe import ModelRef
from mergeopt.report.card.naming import last_part

_ABSOLUTE = re.compile(r"(?<![\w/:.~<])(?:~|[A-Za-z]:\\|/(?!/))[^\s'\"`<>|]*[/\\]([^\s'\"`<>|/\\]*)")
_HOME = re.compile(r"(?:(?<![\w.:/])/(?:home|Users|root|mnt|data|tmp)/|\b[A-Za-z]:\\)[^\s'\"`<>|)]+")
_PATH = re.compile(r"(?![a-z]+://)\S*[/\\]\S*")


@dataclass(frozen=True)
class Parents:
    """`names`: what recipe and lock file call a model, or a part of one -> its public name."""

    names: Mapping[str, str] = field(default_factory=dict)
    near: Path = Path()

    @classmethod
    def read(cls, folder: Path) -> "Parents":
        """From the lock file; nothing is known without one."""
        file = folder / LOCK_FILE
        return cls(_names(read_json_object(file)) if file.is_file() else {}, folder)

    def public(self, data: Any) -> Any:
        """Plain data with public names for models, and of other paths only the last part."""
        if isinstance(data, dict):
            return {self.public(key): self.public(value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.public(value) for value in data]
        return self.text(data) if isinstance(data, str) else data

    def text(self, text: str) -> str:
        """A name or a sentence, as others may see it."""
        if text in self.names:
            return self.names[text]
        if text in self.names.values() or not re.search(r"[/\\]", text):
            return text
        return last_part(text) if _PATH.fullmatch(text) else _ABSOLUTE.sub(r"\1", text)

    def leaks(self, text: str) -> list[str]:
        """Local paths that stand in a text."""
        known = [name for name, public in self.names.items() if name != public and re.search(r"[/\\]", name)]
        return [name for name in known if name in text] + [found[0] for found in _HOME.finditer(text)]

    def opened(self) -> dict[str, Checkpoint]:
        """Public name -> model, of those that are on this disk."""
        found = {}
        for name, public in self.names.items():
            try:
                ref = ModelRef.parse(name, "")
                if (self.near / ref.path).is_dir() or Path(ref.path).expanduser().is_dir():
                    found[public] = open_models([ref], self.near)[ref]
            except (InputError, OSError):
                continue
        return found


def _names(lock: Mapping[str, Any]) -> dict[str, str]:
    stages = _mapping(lock, "stages")
    names: dict[str, str] = {}
    for each in (lock, *stages.values()):
        hub = _mapping(each, "commits")
        for text in _mapping(each, "inputs"):
            ref = ModelRef.parse(text, LOCK_FILE)
            parts = [ref.bare] if ref.adapter is None else [ref.bare, ref.adapter]
            public = {part.path: str(part) if part.path in hub else f"local:{last_part(part.path)}" for part in parts}
            names |= public | {text: "+".join(public.values())}
    return names | {name: last_part(name) for name in stages}


def _mapping(data: Any, key: str) -> Mapping[str, Any]:
    """What a lock file holds under `key`; nothing where it is damaged."""
    found = data.get(key) if isinstance(data, dict) else None
    return found if isinstance(found, dict) else {}
