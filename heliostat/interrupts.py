"""Receives Ctrl-C and SIGTERM as values to poll instead of exceptions, and what else ends with a command that is stopped."""

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

USES_RAY: list[Callable[[], None]] = []
"""Each ends a thread that uses Ray, and returns when it has ended; called before the process disconnects from Ray."""


@contextmanager
def interrupts(*more: signal.Signals) -> Iterator[list[int]]:
    """Collect the SIGINTs and SIGTERMs that arrive in the block, and ``more``, in a list; they interrupt nothing.

    Python raises KeyboardInterrupt at any instruction; in a finalizer, such as that of a connection, it is lost.
    Outside of the main thread, which is the only one to get signals, the list stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    # What is ignored stays so, as SIGHUP after nohup.
    numbers = [signal.SIGINT, signal.SIGTERM, *(number for number in more if signal.getsignal(number) != signal.SIG_IGN)]
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def terminal_blocked() -> Iterator[None]:
    r"""Defer SIGINT, SIGHUP and SIGQUIT in the block; processes that are started in it never get them.

    All processes of a terminal get them by Ctrl-C, when it is closed, or by Ctrl-\: those of Ray must live until the command
    has ended its work.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def handles_sigterm(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM; False also if it has exited, or this is not Linux."""
    try:
        caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return False
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)
