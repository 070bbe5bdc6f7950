"""Receives Ctrl-C and SIGTERM as values to poll instead of exceptions."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collect the SIGINTs and SIGTERMs that arrive in the block in a list; they interrupt nothing.

    Python raises KeyboardInterrupt at any instruction; in a finalizer, such as that of a connection, it is lost.
    Outside of the main thread, which is the only one to get signals, the list stays empty.
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
