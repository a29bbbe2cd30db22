"""An append-only log of JSON lines: what happened, on disk before anyone acts on it.

Every append is written and fsynced whole. A process killed while writing leaves a torn last line, which reading ignores
and the next writer cuts off; anything else that does not parse is damage, and said so.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from mergeopt.errors import MergeoptError

Event = dict[str, Any]


def plain(value: Any) -> Any:
    """`value` as JSON can say it: NaN and infinities become null, numpy scalars numbers, tuples lists."""
    if isinstance(value, str | int | bool | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if hasattr(value, "tolist"):  # numpy's and torch's scalars and arrays
        return plain(value.tolist())
    raise TypeError(f"a {type(value).__name__} cannot be written to a log")


def cut_torn_line(path: Path) -> None:
    """Truncates `path` after its last line feed: what follows was being written when its process died."""
    with path.open("r+b") as file:
        data = file.read()
        end = _end_of_last_line(data)
        if end < len(data):
            file.truncate(end)
            os.fsync(file.fileno())


def read_log(path: Path) -> list[Event]:
    """All whole events, in order; a torn last line is left out.

    Raises:
        MergeoptError: A line that is not an event, with its number.
    """
    data = path.read_bytes()
    events = []
    for number, line in enumerate(data[: _end_of_last_line(data)].split(b"\n")[:-1], start=1):
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise MergeoptError(f"{path.name}:{number}: not an event of a search log; the file is damaged")
        events.append(event)
    return events


def _end_of_last_line(data: bytes) -> int:
    return data.rfind(b"\n") + 1


class EventLog:
    """The writer; there is one per file at a time.

    Args:
        path: Created if missing; a torn last line is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        cut_torn_line(path)

    def append(self, event: str, **payload: Any) -> None:
        """Writes ``{"event": event, **payload}``; on disk when this returns.

        Raises:
            MergeoptError: The disk is full, or the file cannot be written.
        """
        line = json.dumps({"event": event, **plain(payload)}, separators=(",", ":"), allow_nan=False)
        data = line.encode() + b"\n"
        try:
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError(f"only {written} of {len(data)} bytes could be written")
            os.fsync(self._file)
        except OSError as error:
            cut_torn_line(self.path)
            raise MergeoptError(f"{self.path.name}: the search log cannot be written: {error}") from error

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
