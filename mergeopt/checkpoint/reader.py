"""Weights from disk into memory the caller owns.

`preadv` into the caller's buffer: no memory map (whose page faults cost more than the copy), no allocation in a loop,
no shared file position, so any number of threads may read at once.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Protocol, Self

import torch

from mergeopt.checkpoint.header import StoredTensor
from mergeopt.checkpoint.stamp import Stamp, stamp_of
from mergeopt.errors import MergeoptError


class Stored(Protocol):
    """Tensors in files: where they lie, and what the files were when that was read."""

    @property
    def tensors(self) -> Mapping[str, StoredTensor]: ...

    @property
    def stamps(self) -> Mapping[Path, Stamp]: ...


class Reader(Protocol):
    """Gives the tensors of one checkpoint; what `TensorReader` promises. A view of a checkpoint has one of its own."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def read_into(self, name: str, start: int, out: torch.Tensor) -> None:
        """Fills `out`, 1-D of the stored dtype, with the elements from `start` on."""
        ...

    def tensor(self, name: str) -> torch.Tensor:
        """A whole tensor in memory of its own."""
        ...


class TensorReader:
    """Reads the tensors of a checkpoint's files; a context manager, one descriptor per file, opened when first needed.

    Thread-safe, except that `close` must wait for the readers.
    """

    def __init__(self, stored: Stored) -> None:
        self._tensors, self._stamps = stored.tensors, stored.stamps
        self._handles: dict[Path, int] = {}
        self._opening = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; reading again opens them again."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def read_into(self, name: str, start: int, out: torch.Tensor) -> None:
        """Fills `out` with the elements `start` .. `start` + out.numel() of a tensor, read row-major.

        Args:
            name: The tensor's name in the checkpoint.
            start: First element.
            out: 1-D, contiguous, on the CPU, of the stored dtype.

        Raises:
            MergeoptError: the file cannot be read, or is no longer the one whose header was read.
            ValueError: `out` does not fit the tensor.
        """
        stored = self._tensors[name]
        if out.dim() != 1 or out.dtype != torch_dtype(stored.dtype) or not out.is_contiguous():
            raise ValueError(f"{name}: out must be 1-D contiguous {stored.dtype}, not {out.dim()}-D {out.dtype}")
        if start < 0 or start + out.numel() > stored.numel:
            raise ValueError(f"{name}: elements {start}..{start + out.numel()} of {stored.numel}")
        buffer = byte_view(out)
        offset, done = stored.offset + start * out.element_size(), 0
        handle = self._handles.get(stored.file) or self._open(stored.file)
        try:
            while done < len(buffer):  # one call moves at most 2 GiB
                count = os.preadv(handle, [buffer[done:]], offset + done)
                if count == 0:
                    raise MergeoptError(f"{stored.file}: changed while reading {name!r} (the file is shorter now)")
                done += count
        except OSError as fault:
            raise MergeoptError(f"{stored.file}: {fault.strerror} while reading {name!r}") from fault

    def tensor(self, name: str) -> torch.Tensor:
        """A whole tensor in memory of its own, stored dtype and shape."""
        stored = self._tensors[name]
        result = torch.empty(stored.shape, dtype=torch_dtype(stored.dtype))
        self.read_into(name, 0, result.view(-1))
        return result

    def _open(self, file: Path) -> int:
        with self._opening:
            if file in self._handles:
                return self._handles[file]
            try:
                handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as fault:
                raise MergeoptError(f"{file}: {fault.strerror}") from fault
            if file in self._stamps and stamp_of(handle) != self._stamps[file]:
                os.close(handle)
                raise MergeoptError(f"{file}: changed since its header was read")
            self._handles[file] = handle
            return handle


def torch_dtype(name: str) -> torch.dtype:
    """``torch.bfloat16`` for "bfloat16"."""
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"torch.{name} is not a dtype")
    return dtype


def byte_view(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous 1-D CPU tensor, shared, not copied."""
    return tensor.detach().view(torch.uint8).numpy().data
