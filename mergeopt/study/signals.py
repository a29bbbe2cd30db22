"""Ctrl-C that waits a moment: for what others do not expect to be cut in two."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def undisturbed() -> Iterator[None]:
    """Lets SIGINT and SIGTERM, where they are handled in Python, come through only when the block is left."""
    if threading.current_thread() is not threading.main_thread():  # the others never hear of signals
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    waiting = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in waiting:
        signal.signal(number, lambda signum, frame: came.append((signum, frame)))
    try:
        yield
    finally:
        for number, handler in waiting.items():
            signal.signal(number, handler)
        for signum, frame in came[:1]:
            waiting[signal.Signals(signum)](signum, frame)
