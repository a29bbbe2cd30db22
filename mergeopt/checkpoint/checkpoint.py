"""A model folder opened by its headers: every tensor by name, no weight read.

One ``model.safetensors``, or shards with an index; where there is neither, the same as pickles. The index is only
believed where the headers of the shards agree with it, and no file outside the folder is ever opened, except through
the links of a Hugging Face cache (``snapshots/<commit>/x -> ../../blobs/<hash>``).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mergeopt.checkpoint.header import StoredTensor, read_header
from mergeopt.checkpoint.jsonfile import read_json_object
from mergeopt.checkpoint.layout import shape_of
from mergeopt.checkpoint.pickled import read_pickle
from mergeopt.checkpoint.reader import Reader, TensorReader
from mergeopt.checkpoint.stamp import Stamp, check_unchanged, stamp_of
from mergeopt.errors import InputError
from mergeopt.recipe.shape import Shape

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.safetensors")


@dataclass(frozen=True, slots=True)
class Format:
    """How weights lie in a folder: in one file, or in shards with an index; `read` gives one file's tensors."""

    single: str
    index: str
    suffix: str
    read: Callable[[Path], Mapping[str, StoredTensor]]


SAFETENSORS = Format(SINGLE_FILE, INDEX_FILE, ".safetensors", read_header)
PICKLES = Format("pytorch_model.bin", "pytorch_model.bin.index.json", ".bin", read_pickle)
ADAPTERS = (
    Format("adapter_model.safetensors", "adapter_model.safetensors.index.json", ".safetensors", read_header),
    Format("adapter_model.bin", "adapter_model.bin.index.json", ".bin", read_pickle),
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model on disk. `tensors` stand in the order of `files` and, within a file, of their bytes."""

    folder: Path
    name: str  # as the user wrote it
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...]
    stamps: Mapping[Path, Stamp] = field(default_factory=dict)  # of each file, from before its header was read
    notices: tuple[str, ...] = ()  # what the user should know about these files

    @classmethod
    def open(cls, folder: Path, *, name: str | None = None) -> "Checkpoint":
        """Reads config, index and headers.

        Raises:
            InputError: not a model folder, weights in another format, a damaged or contradictory file.
        """
        try:
            return cls._open(folder, name or str(folder))
        except OSError as fault:
            raise InputError(f"cannot be read: {fault.strerror}", where=str(fault.filename or folder)) from None

    @classmethod
    def _open(cls, folder: Path, name: str) -> "Checkpoint":
        if not folder.is_dir():
            raise InputError("not a folder" if folder.exists() else "no such folder", where=str(folder))
        config_file = folder / "config.json"
        if not config_file.is_file():
            raise InputError("not a model folder: no config.json", where=str(folder))
        config = read_json_object(config_file)
        weights = read_weights(folder, (SAFETENSORS, PICKLES))
        if weights is None:
            raise _no_weights(folder)
        tensors, notices = dict(weights.tensors), []
        if weights.format is PICKLES:
            notices.append(f"{name} has no safetensors: its pickles are read, as data only")
            aliases = _aliases(tensors.values()) if config.get("tie_word_embeddings", True) else {}
            for alias in aliases:
                del tensors[alias]
            if aliases:
                pairs = ", ".join(f"{alias} is {target}" for alias, target in aliases.items())
                notices.append(f"{name}: tied tensors are read once ({pairs})")
        return cls(folder, name, config, tensors, weights.files, weights.stamps, tuple(notices))

    @cached_property
    def shape(self) -> Shape:
        """The tensors with their stacks and layers."""
        return shape_of(self.tensors, self.config)

    def reader(self) -> Reader:
        """Reads the tensors; to be entered and left."""
        return TensorReader(self)

    def check_unchanged(self) -> None:
        """Raises MergeoptError where a file is not the one whose header was read."""
        check_unchanged(self.stamps)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of a folder's weight files, in the order of `files`."""

    format: Format
    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...]
    stamps: Mapping[Path, Stamp]


def read_weights(folder: Path, formats: Iterable[Format]) -> Weights | None:
    """The headers of the first of `formats` that the folder has, or None.

    Raises:
        InputError: damaged or contradictory files.
    """
    for form in formats:
        listed = _weight_files(folder, form)
        if listed is None:
            continue
        files, weight_map = listed
        stamps = {file: stamp_of(file) for file in files}
        tensors: dict[str, StoredTensor] = {}
        for file in files:
            for tensor in form.read(file).values():
                if tensor.name in tensors:
                    others = f"{tensors[tensor.name].file.name} and {file.name}"
                    raise InputError(f"tensor {tensor.name!r} stands in both {others}", where=str(folder))
                tensors[tensor.name] = tensor
        if not tensors:
            raise InputError("the weight files hold no tensor", where=str(folder))
        if weight_map is not None:
            _check_index(weight_map, tensors, folder / form.index)
        return Weights(form, tensors, files, stamps)
    return None


def is_inside(file: Path, folder: Path) -> bool:
    """Whether `file`, links followed, lies in `folder` or in the blobs of the Hub cache that `folder` is part of."""
    target, home = file.resolve(), folder.resolve()
    roots = [home, *(parent.parent / "blobs" for parent in home.parents if parent.name == "snapshots")]
    return any(target.is_relative_to(root) for root in roots)


def _aliases(tensors: Iterable[StoredTensor]) -> dict[str, str]:
    """Name -> earlier name, of tensors that are the same bytes: pickles store tied weights under all their names."""
    first: dict[tuple[Any, ...], str] = {}
    places = ((t.name, (t.file, t.offset, t.shape, t.dtype)) for t in tensors if t.nbytes)
    return {name: first[place] for name, place in places if first.setdefault(place, name) != name}


def _weight_files(folder: Path, form: Format) -> tuple[tuple[Path, ...], dict[str, str] | None] | None:
    """The files to read, by name, and the index's tensor -> file where there is one; None without such files."""
    single, index = folder / form.single, folder / form.index
    if index.is_file():
        weight_map = _weight_map(index, form.suffix)
        names = sorted(set(weight_map.values()))
        _check_strays(folder, set(names))
        if single.is_file() and form.single not in names:
            raise InputError(
                f"both {form.single} and {form.index} for other files: which is the model?",
                where=str(folder),
                remedy="remove the stale one",
            )
    elif single.is_file():
        weight_map, names = None, [form.single]
    else:
        return None
    files = tuple(folder / name for name in names)
    for file in files:
        _check_file(file, folder)
    return files, weight_map


def _weight_map(index: Path, suffix: str) -> dict[str, str]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError("no weight_map", where=str(index))
    for tensor, name in weight_map.items():
        plain = isinstance(name, str) and name.isprintable() and not {"/", "\\"} & set(name)
        if not plain or not name.endswith(suffix):
            problem = f"weight_map puts {tensor!r} in {name!r}, which is not a {suffix} file of this folder"
            raise InputError(problem, where=str(index))
    return weight_map


def _check_strays(folder: Path, listed: set[str]) -> None:
    """An index that passes over a shard of its own series would drop tensors in silence."""
    series = {(match[1], match[2]) for name in listed if (match := _SHARD.fullmatch(name))}
    for name in sorted(path.name for path in folder.glob("*-of-*.safetensors")):
        match = _SHARD.fullmatch(name)
        if match and name not in listed and (match[1], match[2]) in series:
            raise InputError(f"does not list {name}, which stands beside it", where=str(folder / INDEX_FILE))


def _check_file(file: Path, folder: Path) -> None:
    if not file.is_file():
        remedy = "copy or download it again"
        raise InputError(f"the shard {file.name} is missing", where=str(folder), remedy=remedy)
    if not is_inside(file, folder):
        raise InputError(f"{file.name} is a link out of the folder", where=str(folder), remedy="copy the file itself")


def _check_index(weight_map: Mapping[str, str], tensors: Mapping[str, StoredTensor], index: Path) -> None:
    for name, file in weight_map.items():
        if name not in tensors:
            raise InputError(f"lists {name!r} in {file}, which does not hold it", where=str(index))
        if tensors[name].file.name != file:
            raise InputError(f"lists {name!r} in {file}; it is in {tensors[name].file.name}", where=str(index))
    for name, tensor in tensors.items():
        if name not in weight_map:
            raise InputError(f"does not list {name!r}, which {tensor.file.name} holds", where=str(index))


def _no_weights(folder: Path) -> InputError:
    names = sorted(path.name for path in folder.iterdir())
    if "adapter_config.json" in names:
        problem, remedy = "holds an adapter, not a model", "write the model before it: model: <base>+<adapter>"
    elif any(name.endswith((".safetensors", ".bin")) for name in names):
        problem = f"weight files, but neither {SINGLE_FILE} nor {INDEX_FILE}"
        remedy = "copy the index from where the model came from"
    else:
        problem, remedy = f"no weights: neither {SINGLE_FILE} nor {INDEX_FILE}", "is the download complete?"
    return InputError(problem, where=str(folder), remedy=remedy)
