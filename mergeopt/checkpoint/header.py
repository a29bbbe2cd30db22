"""The header of a safetensors file: which tensor lies where, without touching a weight.

A file is 8 bytes of header length (little-endian), a JSON header, then the tensors' bytes without gaps. Files come from
strangers, so every number is checked against the others and against the file's size before anything is believed.
Format: https://github.com/huggingface/safetensors#format
"""

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from mergeopt.checkpoint.jsonfile import parse_json_object
from mergeopt.errors import InputError

MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
_MAX_RANK = 64

# safetensors' name -> torch's name without the prefix, bytes per element
_DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
_CODES = {name: code for code, (name, _) in _DTYPES.items()}
_ITEM_SIZES = dict(_DTYPES.values())


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies: `nbytes` bytes from `offset` (counted from the start of `file`), row-major."""

    name: str
    dtype: str  # torch's name without the prefix: "bfloat16"
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def numel(self) -> int:
        return prod(self.shape)


def item_size(dtype: str) -> int:
    """Bytes per element of a dtype by torch's name; ValueError where safetensors cannot store it."""
    try:
        return _ITEM_SIZES[dtype]
    except KeyError:
        raise ValueError(f"{dtype!r} cannot be stored; known: {', '.join(_ITEM_SIZES)}") from None


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, in the order of their bytes.

    Raises:
        InputError: the file cannot be read, is truncated, or its header contradicts itself.
    """
    where = str(file)
    try:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError("not a regular file", where=where)
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            start = _LENGTH_BYTES + length
            _check_length(length, status.st_size, where)
            data = stream.read(length)
    except OSError as fault:
        raise InputError(f"cannot be read: {fault.strerror}", where=where) from None
    if len(data) != length:
        raise InputError("changed while its header was read", where=where)
    document = parse_json_object(data, f"{where} (header)")
    document.pop("__metadata__", None)
    tensors = sorted(
        (_entry(name, value, file, start) for name, value in document.items()),
        key=lambda tensor: (tensor.offset, tensor.nbytes),
    )
    _check_coverage(tensors, start, status.st_size, where)
    return {tensor.name: tensor for tensor in tensors}


def encode_header(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, tuple[int, ...]]:
    """The first bytes of a file holding `tensors` (name, dtype, shape) in this order.

    Returns:
        The header with its length, padded to 8 bytes, and each tensor's offset from the start of the file.
    """
    document: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    begins, begin = [], 0
    for name, dtype, shape in tensors:
        end = begin + prod(shape) * item_size(dtype)
        document[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begins.append(begin)
        begin = end
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    start = _LENGTH_BYTES + len(text)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, tuple(start + b for b in begins)


def _check_length(length: int, size: int, where: str) -> None:
    if size < _LENGTH_BYTES:
        raise InputError(f"{size} bytes is too short for a safetensors file", where=where)
    if length > MAX_HEADER_BYTES:
        problem = f"claims a header of {length:,} bytes (at most {MAX_HEADER_BYTES:,}): not a safetensors file"
        raise InputError(problem, where=where)
    if _LENGTH_BYTES + length > size:
        raise InputError(
            f"truncated: its header alone needs {_LENGTH_BYTES + length:,} bytes, the file has {size:,}",
            where=where,
            remedy="copy or download it again",
        )


def _entry(name: str, value: Any, file: Path, start: int) -> StoredTensor:
    where = f"{file} tensor {name!r}"
    if not name.isprintable():  # also lone surrogates, which could not be written out again
        raise InputError("a tensor's name must be printable text", where=where)
    if not isinstance(value, dict):
        raise InputError("its header entry is not an object", where=where)
    code, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(code, str) or code not in _DTYPES:
        raise InputError(f"unknown dtype {code!r}; known: {', '.join(_DTYPES)}", where=where)
    if not _naturals(shape) or len(shape) > _MAX_RANK:
        raise InputError("its shape is not a list of non-negative integers", where=where)
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError("its data_offsets are not [begin, end]", where=where)
    dtype, size = _DTYPES[code]
    begin, end = offsets
    needed = prod(shape) * size
    if end - begin != needed:
        problem = f"{dtype} of shape {shape} takes {needed:,} bytes, but its offsets span {end - begin:,}"
        raise InputError(problem, where=where)
    return StoredTensor(name, dtype, tuple(shape), file, start + begin, needed)


def _naturals(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _check_coverage(tensors: Sequence[StoredTensor], start: int, size: int, where: str) -> None:
    """The tensors must tile the data section: no overlap, no gap, and the file ends with the last of them."""
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            fault = "overlaps the tensor before it" if tensor.offset < end else "leaves a gap before it"
            raise InputError(f"{fault} in the file", where=f"{where} tensor {tensor.name!r}")
        end += tensor.nbytes
    if end > size:
        raise InputError(
            f"truncated: the header promises {end:,} bytes, the file has {size:,}",
            where=where,
            remedy="copy or download it again",
        )
    if end < size:
        raise InputError(f"{size - end:,} bytes stand after the last tensor", where=where)
