"""A block that Ctrl-C may not cut in two."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from mergeopt.study.signals import undisturbed


@pytest.fixture
def handled() -> Iterator[None]:
    """Python's own handler of SIGINT; none of SIGTERM."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handled")
def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt):
        with undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            done = True
        pytest.fail("the interrupt was lost")
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("handled")
def test_it_comes_after_an_error_of_the_block() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("x")
    assert isinstance(caught.value.__context__, ValueError)


@pytest.mark.usefixtures("handled")
def test_without_a_signal_nothing_happens() -> None:
    with undisturbed():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with undisturbed():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
