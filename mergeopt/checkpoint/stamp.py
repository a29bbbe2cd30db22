"""Is a file still the one that was opened? By its inode, size and time of change, as `make` would ask."""

import os
from collections.abc import Mapping
from pathlib import Path

from mergeopt.errors import MergeoptError

Stamp = tuple[int, int, int]
"""Inode, bytes, nanoseconds of the last change."""


def stamp_of(file: Path | int) -> Stamp:
    """The stamp of a path (links followed) or an open descriptor; OSError where there is no such file."""
    status = os.fstat(file) if isinstance(file, int) else file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def check_unchanged(stamps: Mapping[Path, Stamp]) -> None:
    """Raises MergeoptError where a file is gone or has another stamp."""
    for file, stamp in stamps.items():
        try:
            now = stamp_of(file)
        except OSError as fault:
            raise MergeoptError(f"{file}: changed while it was in use ({fault.strerror})") from fault
        if now != stamp:
            raise MergeoptError(f"{file}: changed while it was in use; begin again when nothing writes to it")
