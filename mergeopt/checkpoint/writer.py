"""Weights to disk, any block of any tensor in any order, visible only when whole.

Shapes are known beforehand, so each file's header is written first and every block has its place: `pwrite`, from
any thread. Until `commit` everything lies in a hidden sub-folder; then the files are renamed into place.
Whatever ends the work before that leaves nothing behind.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

import torch
import xxhash

from mergeopt.checkpoint.checkpoint import INDEX_FILE
from mergeopt.checkpoint.gather import Gather
from mergeopt.checkpoint.header import encode_header
from mergeopt.checkpoint.jsonfile import encode_json
from mergeopt.checkpoint.sharding import DEFAULT_SHARD_BYTES, index_document, plan_shards
from mergeopt.checkpoint.sink import OutputTensor, checked_bytes
from mergeopt.checkpoint.staging import Staging
from mergeopt.errors import MergeoptError

_REREAD_BYTES = 1 << 22


@dataclass(slots=True)
class _Progress:
    """How far one tensor has come, in bytes: `hashed` without a gap from its start, `ahead` the blocks beyond."""

    tensor: OutputTensor
    handle: int
    offset: int
    hashed: int = 0
    ahead: list[tuple[int, int]] = field(default_factory=list)
    digest: "xxhash.xxh3_128" = field(default_factory=xxhash.xxh3_128)
    lock: Lock = field(default_factory=Lock)
    gather: Gather = field(init=False)

    def __post_init__(self) -> None:
        self.gather = Gather(self.offset, self.tensor.nbytes)

    def add(self, begin: int, data: memoryview) -> None:
        """Notes what is written at `begin` (under the lock), hashing it if it continues what is hashed."""
        if begin == self.hashed:
            self.digest.update(data)
            self.hashed += len(data)
        elif data:
            self.ahead.append((begin, begin + len(data)))

    def finish(self) -> None:
        """Hashes, from the file, what arrived out of order; ValueError where blocks are missing or overlap."""
        end = self.hashed
        for begin, stop in sorted(self.ahead):
            if begin != end:
                raise ValueError(f"{self.tensor.name}: blocks {'overlap' if begin < end else 'missing'} at byte {end}")
            end = stop
        if end != self.tensor.nbytes:
            raise ValueError(f"{self.tensor.name}: {end:,} of {self.tensor.nbytes:,} bytes written")
        while self.hashed < end:
            data = os.pread(self.handle, min(_REREAD_BYTES, end - self.hashed), self.offset + self.hashed)
            if not data:
                raise MergeoptError(f"{self.tensor.name}: the output file is shorter than what was written")
            self.digest.update(data)
            self.hashed += len(data)


class CheckpointWriter:
    """Writes the weights of one model folder; a context manager that aborts unless `commit` was called.

    Args:
        folder: Where the model goes; made if missing.
        tensors: Everything that will be written, in output order.
        max_shard_bytes: Limit per file.
        beside: Bytes of what else will be written there: the disk must have room for it too.
        metadata: Text entries for the headers, beside ``format: pt``.

    Raises:
        InputError: the folder cannot be written to.
        MergeoptError: the disk has no room for it (nothing is written then).
    """

    def __init__(
        self,
        folder: Path,
        tensors: Sequence[OutputTensor],
        *,
        max_shard_bytes: int = DEFAULT_SHARD_BYTES,
        beside: int = 0,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        by_name = {tensor.name: tensor for tensor in tensors}
        if len(by_name) < len(tensors):
            raise ValueError("two output tensors have the same name")
        self._shards = plan_shards(((t.name, t.nbytes) for t in tensors), max_shard_bytes)
        self._committed = False
        headers = [_header(shard.tensors, by_name, metadata) for shard in self._shards]
        sizes = [len(head) + shard.nbytes for (head, _), shard in zip(headers, self._shards, strict=True)]
        self._staging = Staging(folder, needed=sum(sizes) + beside)
        self._progress: dict[str, _Progress] = {}
        try:
            for shard, size, (head, offsets) in zip(self._shards, sizes, headers, strict=True):
                handle = self._staging.create(shard.file, size, head)
                for name, offset in zip(shard.tensors, offsets, strict=True):
                    self._progress[name] = _Progress(by_name[name], handle, offset)
        except BaseException:
            self._staging.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committed:
            self.abort()

    def write(self, name: str, start: int, data: torch.Tensor) -> None:
        """Writes `data` as the elements from `start` of a tensor; every element exactly once. Thread-safe.

        Blocks of one tensor that come in order are hashed in passing; others are read once more at `commit`.

        Args:
            name: One of the output tensors.
            start: First element, row-major.
            data: 1-D, contiguous, on the CPU, of the output dtype.

        Raises:
            MergeoptError: disk full or failing; abort (leaving the ``with`` does) and nothing is left.
            ValueError: `data` does not fit the tensor.
        """
        progress = self._progress[name]
        buffer = checked_bytes(progress.tensor, start, data)
        begin = start * data.element_size()
        with progress.lock:
            progress.add(begin, buffer)
            for place, piece in progress.gather.add(begin, buffer):
                self._staging.write(progress.handle, progress.offset + place, piece)

    def commit(self) -> None:
        """Renames the files into place: shards first, then the index; an earlier run's weights go.

        Raises:
            ValueError: a tensor is incomplete.
            MergeoptError: disk full or failing.
        """
        for progress in self._progress.values():
            for place, piece in progress.gather.rest():
                self._staging.write(progress.handle, progress.offset + place, piece)
            progress.finish()
        files = [shard.file for shard in self._shards]
        if len(files) > 1:
            index = encode_json(index_document(self._shards))
            self._staging.create(INDEX_FILE, len(index), index)
            files.append(INDEX_FILE)
        self._staging.publish(files, replaces=("model*.safetensors", INDEX_FILE))
        self._committed = True

    def abort(self) -> None:
        """Removes everything written so far. Call it when no thread is writing any more."""
        self._staging.discard()

    def digests(self) -> dict[str, str]:
        """The xxh3-128 of each tensor's bytes (hexadecimal), after `commit`."""
        if not self._committed:
            raise ValueError("digests are known after commit")
        return {name: progress.digest.hexdigest() for name, progress in self._progress.items()}


def _header(
    names: Sequence[str], tensors: Mapping[str, OutputTensor], metadata: Mapping[str, str] | None
) -> tuple[bytes, tuple[int, ...]]:
    return encode_header([(name, tensors[name].dtype, tensors[name].shape) for name in names], metadata)
