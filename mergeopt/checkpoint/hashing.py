"""A hash of every input file, found while the merge runs.

A Hugging Face cache names its large files by their sha256, so those cost nothing. The rest is hashed in the background
with xxh3-128: it tells a changed file as well, at a tenth of the time, and a merge is mostly the time of its bytes. To
check a file against an earlier hash, its bytes are read, whatever its name says.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Protocol, Self

import torch
import xxhash

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.reader import byte_view, torch_dtype
from mergeopt.errors import MergeoptError

_BLOCK_BYTES = 1 << 20
_THREADS = 4
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KNOWN = re.compile(r"xxh3-128:[0-9a-f]{32}|sha256:[0-9a-f]{64}")

Progress = Callable[[int], None]  # told the bytes done since the last call


class _Digest(Protocol):
    def update(self, data: memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


def is_hash(text: object) -> bool:
    """Is it ``xxh3-128:<32 hex digits>`` or ``sha256:<64 hex digits>``?"""
    return isinstance(text, str) and _KNOWN.fullmatch(text) is not None


def hash_of(data: bytes) -> str:
    """``xxh3-128:<hex>`` of bytes in memory."""
    return f"xxh3-128:{xxhash.xxh3_128_hexdigest(data)}"


class InputHashes:
    """Hashes of files, computed in the background from `start` on.

    Args:
        files: Which.
        like: Earlier hashes of some: those are hashed in the same way again, and from their bytes.
        progress: Told of bytes as they are read, from several threads.
    """

    def __init__(
        self, files: Iterable[Path], *, like: Mapping[Path, str] | None = None, progress: Progress | None = None
    ) -> None:
        self._files, self._like, self._progress = tuple(dict.fromkeys(files)), dict(like or {}), progress
        self._hashes: dict[Path, str] = {}
        self._fault: OSError | None = None
        self._stop = Event()
        self._todo: SimpleQueue[Path] = SimpleQueue()
        for file in self._files:
            self._todo.put(file)
        threads = min(len(self._files), os.cpu_count() or 1, _THREADS)
        self._threads = [Thread(target=self._work, name=f"input-hashes-{i}", daemon=True) for i in range(threads)]

    @classmethod
    def start(
        cls, files: Iterable[Path], *, like: Mapping[Path, str] | None = None, progress: Progress | None = None
    ) -> Self:
        """Begins to hash `files`; returns at once."""
        hashes = cls(files, like=like, progress=progress)
        for thread in hashes._threads:
            thread.start()
        return hashes

    def result(self) -> dict[Path, str]:
        """Waits for the hashes: file, as given -> ``sha256:<hex>`` or ``xxh3-128:<hex>``.

        Raises:
            MergeoptError: a file could not be read, or `cancel` was called.
        """
        for thread in self._threads:
            thread.join()
        if self._fault is not None:
            raise MergeoptError(f"{self._fault.filename}: {self._fault.strerror} while hashing") from self._fault
        if len(self._hashes) < len(self._files):
            raise MergeoptError("hashing the inputs was cancelled")
        return dict(self._hashes)

    def cancel(self) -> None:
        """Stops at the next block: nobody will ask for the result."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                file = self._todo.get_nowait()
            except Empty:
                return
            try:
                known = None if file in self._like else cached_sha256(file)
                digest = f"sha256:{known}" if known else self._hashed(file)
            except OSError as fault:
                self._fault = fault
                return
            if not self._stop.is_set():
                self._hashes[file] = digest

    def _hashed(self, file: Path) -> str:
        algorithm = self._like.get(file, "xxh3-128:").partition(":")[0]
        digest: _Digest = hashlib.sha256() if algorithm == "sha256" else xxhash.xxh3_128()
        view = memoryview(bytearray(_BLOCK_BYTES))
        with file.open("rb", buffering=0) as stream:
            while not self._stop.is_set() and (count := stream.readinto(view)):
                digest.update(view[:count])
                if self._progress:
                    self._progress(count)
        return f"{algorithm}:{digest.hexdigest()}"


def cached_sha256(file: Path) -> str | None:
    """The sha256 in the name of the blob that a file of a Hugging Face cache links to, else None.

    Small files' blobs are named by git's sha1 and are not meant.
    """
    if not file.is_symlink():
        return None
    blob = file.resolve()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None


def tensor_digests(checkpoint: Checkpoint, progress: Progress | None = None) -> dict[str, str]:
    """The xxh3-128 of every tensor's bytes (hexadecimal), as the writer of a model gives them.

    Raises:
        MergeoptError: the files cannot be read, or change meanwhile.
    """
    with checkpoint.reader() as reader:

        def digest(name: str) -> str:
            stored, found = checkpoint.tensors[name], xxhash.xxh3_128()
            block = torch.empty(min(stored.numel, _BLOCK_BYTES), dtype=torch_dtype(stored.dtype))
            for start in range(0, stored.numel, _BLOCK_BYTES):
                part = block[: min(_BLOCK_BYTES, stored.numel - start)]
                reader.read_into(name, start, part)
                found.update(byte_view(part))
                if progress:
                    progress(part.nbytes)
            return found.hexdigest()

        with ThreadPoolExecutor(min(os.cpu_count() or 1, _THREADS), thread_name_prefix="tensor-hashes") as pool:
            return dict(zip(checkpoint.tensors, pool.map(digest, checkpoint.tensors), strict=True))
