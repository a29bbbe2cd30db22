"""One writer per study: a lock file that says who holds it, so that a dead process's lock can be taken.

The file holds host, pid and the process's start time (a pid alone may have been given to another process since). It is
read and written under `flock`, so two processes cannot both find the same dead owner and both take its place.
"""

import fcntl
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mergeopt.errors import InputError

Owner = dict[str, Any]


class StudyLock:
    """Held from construction to `release`, or until the process dies.

    Raises:
        InputError: A living process, or one on another host, holds it; the folder may not be written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._me: Owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        self._exchange(self._take)

    def release(self) -> None:
        self._exchange(lambda owner: b"" if owner == self._me else None)

    def _take(self, owner: Owner | None) -> bytes:
        if owner is not None and _alive(owner, self._me["host"]):
            raise InputError(
                f"process {owner['pid']} on {owner['host']} is writing this study",
                where=str(self._path.parent),
                remedy=f"wait for it or stop it (if it is gone, delete {self._path.name})",
            )
        return json.dumps(self._me).encode()

    def _exchange(self, decide: Callable[[Owner | None], bytes | None]) -> None:
        """Replaces the content by ``decide(owner)``, unless that is None, while no other process looks at it."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as fault:
            raise cannot_write(self._path.parent, fault) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            content = decide(_parsed(os.read(file, 4096)))
            if content is not None:
                os.ftruncate(file, 0)
                os.pwrite(file, content, 0)
                os.fsync(file)
        finally:
            os.close(file)


def cannot_write(folder: Path, fault: OSError) -> InputError:
    """The fault in words."""
    return InputError(f"cannot be written to: {fault.strerror}", where=str(folder), remedy="choose another folder")


def _parsed(content: bytes) -> Owner | None:
    """The owner; None for an empty file, or one torn by a crash."""
    try:
        owner = json.loads(content)
    except ValueError:
        return None
    return owner if isinstance(owner, dict) and {"host", "pid", "started"} <= owner.keys() else None


def _alive(owner: Owner, host: str) -> bool:
    """Whether the owner may still be running; on another host that cannot be known."""
    if owner["host"] != host:
        return True
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return owner["started"] is None or owner["started"] == _started(owner["pid"])


def _started(pid: int) -> int | None:
    """When the process started, in clock ticks since boot (field 22 of /proc/pid/stat); None without /proc."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
