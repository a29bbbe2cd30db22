"""Weights in a pickle (``pytorch_model.bin``), without unpickling a weight.

`torch.load(weights_only=True)` builds tensors and containers and nothing else, so a file cannot run code; on fake
tensors it reads no weights either, but says where in the file each lies. From there on such a file is read like any
other.
"""

import warnings
from pathlib import Path
from typing import Any

import torch

from mergeopt.checkpoint.header import StoredTensor, item_size
from mergeopt.errors import InputError

_CONVERT = "load the model with transformers and save it again: save_pretrained() writes safetensors"


def read_pickle(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a file written by ``torch.save``, in the order of its dictionary.

    Raises:
        InputError: the file cannot be read, holds anything but named dense tensors, or would have to run code; it is of
            torch's format before 1.6, or a tensor is not stored row by row.
    """
    where = str(file)
    try:
        size = file.stat().st_size
        document = _load(file)
    except OSError as fault:
        raise InputError(f"cannot be read: {fault.strerror or fault}", where=where) from None
    if not isinstance(document, dict) or not document:
        raise InputError(f"holds a {type(document).__name__}, not named tensors", where=where, remedy=_CONVERT)
    return {name: _stored(name, value, file, size) for name, value in document.items()}


def _load(file: Path) -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with file.open("rb") as stream:
        if stream.read(2) != b"PK":
            problem = "is no zip file: of torch's format before 1.6, or no torch file at all"
            raise InputError(problem, where=str(file), remedy=_CONVERT)
    try:
        with warnings.catch_warnings(), FakeTensorMode():
            warnings.simplefilter("ignore")  # about the pickle protocol
            return torch.load(file, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as fault:  # a stranger's pickle ends in any of them
        blocked = [line.strip() for line in str(fault).splitlines() if "GLOBAL" in line or "Unsupported" in line]
        raise InputError(
            f"not plain weights: {(blocked or str(fault).splitlines() or [type(fault).__name__])[0][:200]}",
            where=str(file),
            remedy="do not load it by other means unless you trust where it comes from",
        ) from None


def _stored(name: Any, value: Any, file: Path, size: int) -> StoredTensor:
    where = f"{file} tensor {name!r}"
    if not isinstance(name, str) or not name.isprintable():
        raise InputError("a tensor's name must be printable text", where=where)
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_quantized:
        kind = value.layout if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(f"is a {kind}, not a dense tensor", where=where, remedy=_CONVERT)
    dtype = str(value.dtype).removeprefix("torch.")
    try:
        width = item_size(dtype)
    except ValueError as fault:
        raise InputError(str(fault), where=where) from None
    begin = getattr(value.untyped_storage(), "_checkpoint_offset", None)
    if begin is None:
        raise InputError("this torch does not say where a pickle's tensors lie", where=where, remedy=_CONVERT)
    if not value.is_contiguous():
        raise InputError("is not stored row by row", where=where, remedy=_CONVERT)
    offset, nbytes = begin + value.storage_offset() * width, value.numel() * width
    if offset < 0 or offset + nbytes > size:
        raise InputError(
            f"truncated: it would end at byte {offset + nbytes:,}, the file has {size:,}",
            where=where,
            remedy="copy or download it again",
        )
    return StoredTensor(name, dtype, tuple(value.shape), file, offset, nbytes)
