"""Ctrl-C and SIGTERM as something that is looked at, not as an exception from anywhere."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """The Ctrl-Cs and SIGTERMs that arrive meanwhile; they interrupt nothing.

    Python raises KeyboardInterrupt wherever it is, and when that is in a finalizer, such as that of a connection, it is lost.
    Outside of the main thread, which alone gets signals, there are none.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
