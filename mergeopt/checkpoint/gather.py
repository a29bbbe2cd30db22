"""Small blocks become large pieces that can go to the disk directly.

Writing gigabytes through the page cache costs more than the disk itself: pages must be found, zeroed, and written
back later. Direct I/O goes around it, but wants pieces whose place in memory and in the file are both multiples of the
page size. So blocks that arrive in order are collected in a buffer that is aligned like the file.
"""

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

PAGE = mmap.PAGESIZE  # also the unit of the page cache: a page is written directly or through it, never both ways
PIECE = 1 << 22


class Gather:
    """Collects the bytes of one tensor that come in order.

    Args:
        offset: Where the tensor begins in its file.
        nbytes: Its size; when the last byte arrives, everything is given out.
    """

    def __init__(self, offset: int, nbytes: int) -> None:
        self._offset, self._nbytes = offset, nbytes
        self._buffer: mmap.mmap | None = None
        self._first = self._fill = 0  # bytes of the buffer in use: [first, fill)
        self._end = 0  # of what has arrived, within the tensor

    def add(self, begin: int, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Takes the bytes from `begin` on; gives pieces (begin, bytes), to be written before the next is asked for.

        Bytes out of order, and all of a small tensor, are given out as they come.
        """
        if begin != self._end or self._nbytes < PIECE:
            yield from self.rest()
            yield begin, data
            self._end = begin + len(data)
            return
        while len(data):
            if self._buffer is None:
                self._buffer = mmap.mmap(-1, PIECE)  # begins on a page
                self._first = self._fill = (self._offset + self._end) % PAGE
            count = min(len(data), PIECE - self._fill)
            self._buffer[self._fill : self._fill + count] = data[:count]
            data = data[count:]
            self._fill += count
            self._end += count
            if self._fill == PIECE:
                yield self._piece()
                self._first = self._fill = 0
        if self._end == self._nbytes:
            yield from self.rest()

    def rest(self) -> Iterator[tuple[int, memoryview]]:
        """What is collected and not yet given out; the buffer is let go."""
        if self._fill > self._first:
            yield self._piece()
        self._buffer = None
        self._first = self._fill = 0

    def _piece(self) -> tuple[int, memoryview]:
        assert self._buffer is not None
        return self._end - (self._fill - self._first), memoryview(self._buffer)[self._first : self._fill]


def open_direct(path: Path) -> int | None:
    """A descriptor for direct writing, or None where the system or the file system has no such thing."""
    if not hasattr(os, "O_DIRECT"):
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None


def direct_span(data: memoryview, offset: int) -> tuple[int, int]:
    """The part [begin, end) of `data` that may be written directly at `offset`: whole pages; empty where unaligned."""
    if len(data) < PAGE or data.readonly:
        return 0, 0
    address = ctypes.addressof(ctypes.c_char.from_buffer(data))
    if (address - offset) % PAGE:
        return 0, 0
    begin = -offset % PAGE
    return begin, begin + (len(data) - begin) // PAGE * PAGE
