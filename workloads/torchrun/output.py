"""What the ranks print, as lines of one terminal; of the tracebacks only that of the rank that failed first."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

TRACEBACK = "Traceback (most recent call last)"
HOLD = 10.0
"""Seconds for which a traceback waits for the end of its process: when one rank fails, the others lose their connection to it
and have a traceback each, which would hide the one that matters."""

Write = Callable[[str, str], None]
"""Takes ``stdout`` or ``stderr``, and a line."""


@dataclass
class Output:
    """Puts a rank's name before each line, if there are several; the order within a rank stays.

    Args:
        write: gets the lines.
        world: the number of ranks.
    """

    write: Write
    world: int
    _held: dict[int, list[str]] = field(default_factory=dict)
    _since: dict[int, float] = field(default_factory=dict)
    _failed: int | None = None

    def line(self, rank: int, stream: str, text: str, now: float) -> None:
        """Take a line that a rank has printed at about the time ``now``, in seconds."""
        if stream == "stderr":
            # torch puts the rank before the lines of an exception, too
            text = re.sub(rf"^\[rank{rank}\]: ?", "", text)
            if rank in self._held or text.startswith(TRACEBACK):
                self._held.setdefault(rank, []).append(text)
                self._since.setdefault(rank, now)
                return
        self._show(rank, stream, text)

    def failed(self, rank: int) -> None:
        """The first rank has failed: its traceback is the one to show."""
        self._failed = rank
        self._release(rank)

    def tick(self, now: float) -> None:
        """Show the tracebacks whose processes go on: they have been dealt with."""
        for rank, since in list(self._since.items()):
            if now - since > HOLD and self._failed is None:
                self._release(rank)

    def end(self) -> None:
        """Show what is held, unless it is an echo of another rank's failure."""
        for rank in list(self._held):
            if self._failed in (None, rank):
                self._release(rank)
        self._held.clear()
        self._since.clear()

    def _release(self, rank: int) -> None:
        self._since.pop(rank, None)
        for text in self._held.pop(rank, []):
            self._show(rank, "stderr", text)

    def _show(self, rank: int, stream: str, text: str) -> None:
        self.write(stream, f"[rank {rank}] {text}" if self.world > 1 else text)
