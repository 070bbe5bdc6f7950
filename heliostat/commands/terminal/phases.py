"""The phase that a command is in, on standard error: a live line on a terminal, else a line when it takes long."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from heliostat.console import duration, err, printable

LONG = 2.0
"""Seconds of a phase after which it is shown."""
AGAIN = 30.0
"""Seconds between two lines about the same phase where there is no terminal."""
POLL = 0.25


class Phases:
    """Shows the current phase with its time, from a thread of its own: the command may be busy.

    Args:
        render: makes the live line of a phase and its seconds; called several times a second.
        quiet: whether nothing is shown where there is no terminal.
    """

    def __init__(self, render: Callable[[str, float], str] | None = None, quiet: bool = False) -> None:
        self._render = render or (lambda phase, seconds: f"{phase}  {duration(seconds)}" if seconds >= LONG else "")
        self._phase, self._since, self._next = "", time.monotonic(), LONG
        self._done = threading.Event()
        self._live: Any = None
        self._lines = not err.is_terminal and not quiet
        self._thread = threading.Thread(target=self._watch, name="phases", daemon=True)

    def __enter__(self) -> Self:
        if err.is_terminal:
            from rich.live import Live

            self._live = Live(console=err, get_renderable=self._line, refresh_per_second=1 / POLL, transient=True)
            self._live.start()
        elif self._lines:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        if self._live:
            self._live.stop()

    def begin(self, phase: str) -> None:
        """Enter a phase; the empty one is not shown without a terminal, because something else shows the progress."""
        if phase != self._phase:
            self._phase, self._since, self._next = phase, time.monotonic(), LONG

    def _line(self) -> Any:
        from rich.text import Text

        return Text(printable(self._render(self._phase, time.monotonic() - self._since)), no_wrap=True, overflow="ellipsis")

    def _watch(self) -> None:
        while not self._done.wait(POLL):
            phase, seconds = self._phase, time.monotonic() - self._since
            if phase and seconds >= self._next:
                self._next = AGAIN * (seconds // AGAIN + 1)
                since = f" ({duration(seconds)})" if seconds >= AGAIN else ""
                err.print(f"{phase}{since}", soft_wrap=True)


@contextmanager
def phase(text: str, quiet: bool = False) -> Iterator[None]:
    """Show what a block does, if that takes more than two seconds."""
    with Phases(quiet=quiet) as phases:
        phases.begin(text)
        yield
