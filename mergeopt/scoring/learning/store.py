"""What is expensive to make and never changes, kept under a digest of what it was made from.

A file appears whole or not at all, and carries a hash of its contents: one that was cut, or changed by a bad disk, is
made again. Reading maps the file, so a large one costs memory only where it is touched.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mergeopt.errors import MergeoptError

Tensors = Mapping[str, Tensor]


def kept(folder: Path | None, digest: str, make: Callable[[], Tensors]) -> Tensors:
    """The tensors under `digest`, made and written where they are not there yet; `folder` None keeps nothing.

    Tensors come back with the bits they were made with. They are CPU tensors and must not be written to.

    Raises:
        MergeoptError: Disk full, no permission.
    """
    path = folder / f"{digest}.safetensors" if folder is not None else None
    found = _read(path) if path is not None else None
    if found is not None:
        return found
    made = {name: tensor.contiguous() for name, tensor in make().items()}
    if path is not None:
        _write(path, made)
    return made


def _read(path: Path) -> Tensors | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            hash_ = (file.metadata() or {}).get("xxh3")
    except (SafetensorError, OSError):
        return None
    return tensors if hash_ == _hash(tensors) else None


def _write(path: Path, tensors: Tensors) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), temporary, metadata={"xxh3": _hash(tensors)})
        temporary.replace(path)
    except (SafetensorError, OSError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise MergeoptError(f"{path}: cannot be written ({error})") from error


def _hash(tensors: Tensors) -> str:
    state = xxhash.xxh3_128()
    for name in sorted(tensors):
        state.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        state.update(tensors[name].numpy().data)
    return state.hexdigest()
