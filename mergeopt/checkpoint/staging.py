"""Large files that appear by rename or not at all.

They grow in a hidden sub-folder of the folder they are meant for (the same file system, so a rename is enough). The
sub-folder is locked while its process lives: what a killed process left is recognised by the free lock and swept.
"""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mergeopt.checkpoint.gather import direct_span, open_direct
from mergeopt.errors import InputError, MergeoptError
from mergeopt.files import remove_files, size_text, sweep

_PREFIX = ".mergeopt-writing-"
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # a small file on its way to its name
_DIRECT = 1 << 28  # larger files go past the page cache; smaller ones are better kept in it


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Makes `folder` ours alone to write into, until left or killed; a folder made for nothing is removed again.

    What a killed process left there is swept. The claim is a lock on the folder itself: no file tells of it.

    Raises:
        InputError: another process is writing there, `folder` is a file or may not be written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as fault:
        _remove_empty(made)
        raise _unwritable(folder, fault) from None
    try:
        _lock_or_refuse(handle, folder)
        remove_files(path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name))
        yield
    finally:
        os.close(handle)
        _remove_empty(made)


def is_leftover(path: Path) -> bool:
    """Is it what a merge that was killed has left, and the next one sweeps?"""
    return path.name.startswith(_PREFIX) or bool(_TEMPORARY.fullmatch(path.name))


class Staging:
    """A hidden folder inside `folder`, on a disk with room for `needed` bytes.

    Raises:
        InputError: `folder` is a file or may not be written to.
        MergeoptError: not enough room on the disk.
    """

    def __init__(self, folder: Path, needed: int) -> None:
        self.folder, self._needed = folder, needed
        self._handles: list[int] = []
        self._direct: dict[int, int] = {}
        self._made: list[Path] = []
        try:
            self._made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            self._check_room()
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
            self._lock = _try_lock(self.path)
        except OSError as fault:
            _remove_empty(self._made)
            if fault.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(fault) from fault
            raise _unwritable(folder, fault) from None
        except MergeoptError:
            _remove_empty(self._made)
            raise

    def create(self, name: str, size: int, head: bytes) -> int:
        """A new file of `size` bytes that begins with `head`; its descriptor, open until published or discarded."""
        try:
            handle = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            self._handles.append(handle)
            os.ftruncate(handle, size)
            if size >= _DIRECT and (direct := open_direct(self.path / name)) is not None:
                self._direct[handle] = direct
        except OSError as fault:
            raise self._failed(fault) from fault
        self.write(handle, 0, memoryview(head))
        return handle

    def write(self, handle: int, offset: int, data: memoryview) -> None:
        """Writes all of `data` at `offset`, whole aligned pages past the page cache. Thread-safe."""
        begin, end = direct_span(data, offset) if handle in self._direct else (0, 0)
        try:
            done = begin
            while done < end:
                done += os.pwrite(self._direct[handle], data[done:end], offset + done)
        except OSError as fault:
            if fault.errno != errno.EINVAL:
                raise self._failed(fault) from fault
            end = begin  # the file system promised what it cannot do
        self._write_cached(handle, offset, data[:begin])
        self._write_cached(handle, offset + end, data[end:])

    def _write_cached(self, handle: int, offset: int, data: memoryview) -> None:
        done = 0
        try:
            while done < len(data):  # one call moves at most 2 GiB
                done += os.pwrite(handle, data[done:], offset + done)
        except OSError as fault:
            raise self._failed(fault) from fault

    def publish(self, names: Sequence[str], *, replaces: Sequence[str]) -> None:
        """Renames `names` into the folder in this order.

        Files there that match a pattern in `replaces` go first, so old and new never stand mixed; a single file
        replaces its namesake at once. Nothing is forced onto the disk: a killed process loses nothing by that, and
        after a power cut the lock file's hashes tell; waiting for the disk would double the time of a merge.

        Raises:
            MergeoptError: disk full or failing; network file systems may say so only when a file is closed.
        """
        atomic = set(names) if len(names) == 1 else set()
        try:
            self._close_files()
            stale = {path for pattern in replaces for path in self.folder.glob(pattern)}
            for path in stale:
                if path.name not in atomic:
                    path.unlink()
            for name in names:
                (self.path / name).replace(self.folder / name)
        except OSError as fault:
            raise self._failed(fault) from fault
        self._remove_hidden()

    def discard(self) -> None:
        """Removes the hidden folder, and `folder` itself where this object made it and it is still empty."""
        with suppress(OSError):  # what was written does not matter any more
            self._close_files()
        self._remove_hidden()
        _remove_empty(self._made)

    def _close_files(self) -> None:
        handles, self._handles, self._direct = [*self._handles, *self._direct.values()], [], {}
        with ExitStack() as stack:  # one that fails does not keep the others open
            for handle in handles:
                stack.callback(os.close, handle)

    def _remove_hidden(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < self._needed:
            raise MergeoptError(
                f"{self.folder}: the model needs {size_text(self._needed)}, the disk has {size_text(free)} free"
            )

    def _failed(self, fault: OSError) -> MergeoptError:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            return self._full(fault)
        return MergeoptError(f"{self.folder}: {fault.strerror} while writing")

    def _full(self, fault: OSError) -> MergeoptError:
        return MergeoptError(
            f"{self.folder}: {fault.strerror} while writing; the model needs {size_text(self._needed)} in all"
        )


def _remove_empty(folders: Sequence[Path]) -> None:
    """Removes folders, innermost first, up to the first that somebody put something into."""
    for path in folders:
        try:
            path.rmdir()
        except OSError:
            return


def _unwritable(folder: Path, fault: OSError) -> InputError:
    return InputError(f"cannot be written to: {fault.strerror}", where=str(folder), remedy="choose another folder")


def _lock_or_refuse(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        problem = "another process is writing a model there"
        raise InputError(problem, where=str(folder), remedy="wait for it, or give another OUT") from None
    except OSError:  # a file system without locks: nothing can be promised there
        return


def _sweep(folder: Path) -> None:
    """Removes hidden folders and temporary files whose process is gone."""
    sweep(folder)
    for path in folder.glob(f"{_PREFIX}*"):
        lock = _try_lock(path)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _try_lock(folder: Path) -> int | None:
    """An open descriptor that holds the folder's lock until it is closed, or None where another process has it."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
