"""The lock file: what a model folder was made from and what came out, hash by hash.

Enough to make the model again and to compare it tensor by tensor. It names models as the recipe does and files by their
last part: no local path that the recipe does not show.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import mergeopt
from mergeopt.checkpoint.hashing import is_hash
from mergeopt.checkpoint.jsonfile import read_json_object
from mergeopt.errors import InputError
from mergeopt.files import write_text

LOCK_FILE = "recipe.lock.json"
FORMAT = 1

Hashes = Mapping[str, str]
"""Name → ``xxh3-128:<hex>`` or ``sha256:<hex>``."""


def versions() -> dict[str, str]:
    """Installed versions of what numbers depend on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "safetensors", "numpy", "optuna", "lm_eval")}


def machine() -> str:
    """What kind of processor computed: ``x86_64 AVX2``. Sums and sines may differ between kinds in the last bit."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@dataclass(frozen=True)
class Lock:
    """The content of a lock file.

    Attributes:
        seed: The recipe's.
        inputs: Per model, as the recipe names it, the hashes of its weight files.
        outputs: Of every output tensor's bytes.
        commits: Of models from the Hub: the commit behind each.
        side_files: Of what stands beside the weights: config, tokenizer, chat template. None in a lock file that was
            written before they were noted.
        recipe: Of ``recipe.yaml``; None as above.
        refinement: Of the numbers below the tensor, where there are any.
        portability: How mergekit's model from the same recipe compares.
        match: Of a merge as mergekit does it: its `random_seed` and torch's `threads`.
        versions, machine, tool: What computed.
    """

    seed: int
    inputs: Mapping[str, Hashes]
    outputs: Hashes
    side_files: Hashes | None
    recipe: str | None
    refinement: str | None
    portability: str
    commits: Mapping[str, str] = field(default_factory=dict)
    match: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=versions)
    machine: str | None = field(default_factory=machine)
    tool: str = mergeopt.__version__

    def data(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "format": FORMAT,
            "mergeopt": self.tool,
            "seed": self.seed,
            "portability": self.portability,
            "recipe": self.recipe,
            **({"refinement": self.refinement} if self.refinement else {}),
            "versions": dict(self.versions),
            "machine": self.machine,
            "inputs": {model: dict(files) for model, files in self.inputs.items()},
            **({"commits": dict(self.commits)} if self.commits else {}),
            "side_files": dict(self.side_files or {}),
            "outputs": dict(self.outputs),
        }

    def write(self, folder: Path, also: Mapping[str, Any]) -> None:
        """Writes ``recipe.lock.json``, with further entries `also`. Raises MergeoptError: disk full, no permission."""
        write_text(folder / LOCK_FILE, json.dumps(self.data() | dict(also), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Lock":
        """Reads the lock file of a folder.

        Raises:
            InputError: no such file, not a lock file, or one of a newer format.
        """
        file = folder / LOCK_FILE
        if not file.exists():
            problem = "no such folder" if not folder.exists() else f"no {LOCK_FILE}: not made by `mergeopt`"
            raise InputError(problem, where=str(folder), remedy="give a folder that `mergeopt merge` or `search` wrote")
        return _parsed(read_json_object(file), str(file))


def _parsed(data: Mapping[str, Any], where: str) -> Lock:
    if data.get("format") != FORMAT:
        problem = f"is of format {data.get('format')!r}, not {FORMAT}"
        raise InputError(problem, where=where, remedy="use the mergeopt that wrote it, or a newer one")
    inputs = data.get("inputs")
    if not isinstance(inputs, dict):
        raise InputError("has no table of inputs", where=where, remedy="it is damaged; merge again")
    side_files = data.get("side_files")
    return Lock(
        seed=_typed(data.get("seed"), int, "seed", where),
        inputs={model: _hashes(files, f"inputs of {model!r}", where) for model, files in inputs.items()},
        outputs=_hashes(data.get("outputs"), "outputs", where),
        side_files=None if side_files is None else _hashes(side_files, "side_files", where),
        recipe=_one(data.get("recipe"), "recipe", where),
        refinement=_one(data.get("refinement"), "refinement", where),
        portability=str(data.get("portability")),
        commits={str(k): str(v) for k, v in _typed(data.get("commits", {}), dict, "commits", where).items()},
        match=None if data.get("match") is None else _matched(data["match"], where),
        versions={str(k): str(v) for k, v in _typed(data.get("versions", {}), dict, "versions", where).items()},
        machine=None if data.get("machine") is None else str(data["machine"]),
        tool=str(data.get("mergeopt")),
    )


def _matched(data: Any, where: str) -> Mapping[str, Any]:
    """Of mergekit's arithmetic: its seed, or None, and torch's threads."""
    match = _typed(data, dict, "match", where)
    if type(match.get("random_seed")) not in (int, type(None)):
        raise InputError(
            f"match.random_seed is {match['random_seed']!r}", where=where, remedy="it is damaged; merge again"
        )
    return {
        "random_seed": match.get("random_seed"),
        "threads": _typed(match.get("threads"), int, "match.threads", where),
    }


def _typed(value: Any, kind: type, what: str, where: str) -> Any:
    if type(value) is not kind:
        raise InputError(f"{what} is {value!r}, not {kind.__name__}", where=where, remedy="it is damaged; merge again")
    return value


def _hashes(data: Any, what: str, where: str) -> Hashes:
    if not isinstance(data, dict) or not all(is_hash(value) for value in data.values()):
        raise InputError(f"{what}: not a table of hashes", where=where, remedy="it is damaged; merge again")
    return data


def _one(value: Any, what: str, where: str) -> str | None:
    if value is None:
        return None
    return next(iter(_hashes({what: value}, what, where).values()))
