"""Merges the output of all ranks, with the traceback of the rank that failed first only."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

TRACEBACK = "Traceback (most recent call last)"
HOLD = 10.0
"""Seconds for which a traceback is held until its process exits: when one rank fails, the others lose their connection to it,
and their tracebacks would hide the one that matters."""

Write = Callable[[str, str], None]
"""Takes ``stdout`` or ``stderr``, and a line."""


@dataclass
class Output:
    """Prefixes each line with its rank if there are several; keeps the order within a rank.

    Args:
        write: called with each line.
        world: the number of ranks.
    """

    write: Write
    world: int
    _held: dict[int, list[str]] = field(default_factory=dict)
    _since: dict[int, float] = field(default_factory=dict)
    _failed: int | None = None

    def line(self, rank: int, stream: str, text: str, now: float) -> None:
        """Takes a line that a rank printed at about the time ``now``, in seconds."""
        if stream == "stderr":
            # torch prefixes the lines of an exception, too
            text = re.sub(rf"^\[rank{rank}\]: ?", "", text)
            if rank in self._held or text.startswith(TRACEBACK):
                self._held.setdefault(rank, []).append(text)
                self._since.setdefault(rank, now)
                return
        self._show(rank, stream, text)

    def failed(self, rank: int) -> None:
        """Notes the rank that failed first, and writes its traceback."""
        self._failed = rank
        self._release(rank)

    def tick(self, now: float) -> None:
        """Writes the tracebacks whose processes still run after `HOLD`: the script has handled the exception."""
        for rank, since in list(self._since.items()):
            if now - since > HOLD and self._failed is None:
                self._release(rank)

    def end(self) -> None:
        """Writes what is held, unless it follows from another rank's failure."""
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
