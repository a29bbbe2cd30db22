"""A hash of every input file, found while the merge runs.

A Hugging Face cache names its large files by their sha256, so those cost nothing. The rest is hashed in the background
with xxh3-128: it tells a changed file as well, at a tenth of the time, and a merge is mostly the time of its bytes.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Self

import xxhash

from mergeopt.errors import MergeoptError

_BLOCK_BYTES = 1 << 20
_THREADS = 4
_SHA256 = re.compile(r"[0-9a-f]{64}")


class InputHashes:
    """Hashes of files, computed in the background from `start` on."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = tuple(dict.fromkeys(files))
        self._hashes: dict[Path, str] = {}
        self._fault: OSError | None = None
        self._stop = Event()
        self._todo: SimpleQueue[Path] = SimpleQueue()
        for file in self._files:
            self._todo.put(file)
        threads = min(len(self._files), os.cpu_count() or 1, _THREADS)
        self._threads = [Thread(target=self._work, name=f"input-hashes-{i}", daemon=True) for i in range(threads)]

    @classmethod
    def start(cls, files: Iterable[Path]) -> Self:
        """Begins to hash `files`; returns at once."""
        hashes = cls(files)
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
                digest = _known(file) or self._hashed(file)
            except OSError as fault:
                self._fault = fault
                return
            if not self._stop.is_set():
                self._hashes[file] = digest

    def _hashed(self, file: Path) -> str:
        digest, buffer = xxhash.xxh3_128(), bytearray(_BLOCK_BYTES)
        view = memoryview(buffer)
        with file.open("rb", buffering=0) as stream:
            while not self._stop.is_set() and (count := stream.readinto(view)):
                digest.update(view[:count])
        return f"xxh3-128:{digest.hexdigest()}"


def _known(file: Path) -> str | None:
    sha256 = cached_sha256(file)
    return f"sha256:{sha256}" if sha256 else None


def cached_sha256(file: Path) -> str | None:
    """The sha256 in the name of the blob that a file of a Hugging Face cache links to, else None.

    Small files' blobs are named by git's sha1 and are not meant.
    """
    if not file.is_symlink():
        return None
    blob = file.resolve()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None
