"""Merges the output of all ranks: in the order of time, a line or a traceback at a time, and none is left out."""

import codecs
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from heliostat.workloads.torchrun.hub import Record

TRACEBACK = "Traceback (most recent call last)"
SETTLE = 0.2
"""Seconds until what a rank has printed is shown, so that what another has printed before it can arrive."""
UNFINISHED = 1.0
"""Seconds after which a line without a newline, or an unfinished traceback, is shown."""
BAR = 5.0
"""Seconds between two states of a progress bar, where it cannot move."""
LOST_PEER = re.compile(
    r"closed by peer|reset by peer|Broken pipe|Read timeout|ncclRemoteError|failed to recv|remote process exited"
)
"""The exceptions of ranks that have lost another one: gloo's and NCCL's (torch 2.15)."""

Write = Callable[[str, str], None]
"""Takes ``stdout`` or ``stderr``, and text; bytes that are not UTF-8 are surrogates in it (PEP 383)."""


@dataclass
class Line:
    """The line of a stream at the cursor, as a terminal shows it."""

    text: str = ""
    is_bar: bool = False
    """Whether it has been written over."""
    _returned: bool = False
    _lines_up: int = 0

    def take(self, text: str) -> Iterator[str]:
        r"""Write on; yields each line that is complete. ``\r\n`` is a newline, also if it arrives in two pieces."""
        for part in re.split(r"(\n|\r|\x1b\[A)", text):
            if part == "\n" and self._lines_up == 0:
                yield self.text
                self.text, self.is_bar, self._returned = "", False, False
            elif part in ("\n", "\r", "\x1b[A"):  # tqdm moves up from its second bar to its first one, and down again
                self._lines_up += {"\n": -1, "\r": 0, "\x1b[A": 1}[part]
                self._returned = True
            elif part:
                self.is_bar |= self._returned
                self.text = part if self._returned else self.text + part
                self._returned = False


class InOrder:
    """Puts the records of several ranks in the order of time, as far as they arrive within ``settle`` seconds."""

    def __init__(self, settle: float) -> None:
        self._settle = settle
        self._waiting: list[tuple[Record, float]] = []

    @property
    def wait(self) -> float:
        """Seconds until the next record may be due; 0 if none waits."""
        return self._settle if self._waiting else 0.0

    def add(self, records: list[Record], now: float) -> None:
        """Takes records that have arrived at the time ``now``, in seconds."""
        self._waiting = sorted([*self._waiting, *((record, now) for record in records)], key=lambda each: each[0][0])

    def due(self, now: float) -> list[Record]:
        """Takes out the records that have waited long enough, with all that happened before them."""
        count = max((n for n, (_, arrived) in enumerate(self._waiting, 1) if now - arrived >= self._settle), default=0)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return [record for record, _ in taken]


@dataclass
class _Stream:
    decode: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("surrogateescape"))
    line: Line = field(default_factory=Line)
    shown: str = ""
    """What of the unfinished line is written already."""
    is_open: bool = False
    """Whether the cursor stands behind that."""
    since: float | None = None
    """When the unfinished line began, or a state of it was shown."""


@dataclass
class Output:
    """Prefixes each line with its rank if there are several; keeps the order within a rank.

    Args:
        write: called with the text to show.
        world: the number of ranks.
        terminal: whether ``stdout`` and ``stderr`` are terminals, where the only rank writes as it likes.
    """

    write: Write
    world: int
    terminal: Mapping[str, bool] = field(default_factory=dict)
    exceptions: dict[int, str] = field(default_factory=dict)
    """The last line of each rank's last traceback, in the order of time."""
    _streams: dict[tuple[int, str], _Stream] = field(default_factory=lambda: defaultdict(_Stream))
    _blocks: dict[int, list[str]] = field(default_factory=dict)
    _since: dict[int, float] = field(default_factory=dict)

    def take(self, rank: int, stream: str, data: bytes, now: float) -> None:
        """Takes what a rank has printed; ``now`` is in seconds."""
        found = self._streams[rank, stream]
        text = found.decode.decode(data)
        if self.world == 1 and self.terminal.get(stream):
            self.write(stream, text)
            return
        for line in found.line.take(text):
            self._complete(rank, stream, found, line, now)
            found.shown, found.is_open, found.since = "", False, None
        if found.since is None and found.line.text.strip():
            found.since = now - BAR if found.line.is_bar else now

    def tick(self, now: float) -> None:
        """Shows what has been unfinished for long enough."""
        for (rank, stream), found in self._streams.items():
            if found.since is not None and now - found.since >= (BAR if found.line.is_bar else UNFINISHED):
                self._show_unfinished(rank, stream, found)
                found.since = now if found.line.is_bar else found.since
        for rank, since in list(self._since.items()):
            if now - since > UNFINISHED:
                self._end_block(rank)

    def end(self) -> None:
        """Shows all that is left."""
        for rank in list(self._blocks):
            self._end_block(rank)
        for (rank, stream), found in self._streams.items():
            self._show_unfinished(rank, stream, found)
        self._streams.clear()

    def cause(self, failed: int, aborted: bool = False) -> str:
        """The exception before that of a rank which has only lost another one; empty if there is none.

        NCCL's watchdog aborts such a rank without an exception.
        """
        ranks = list(self.exceptions)
        if not LOST_PEER.search(self.exceptions.get(failed, "")):
            if not aborted or failed in ranks:
                return ""
            ranks.append(failed)
        earlier = [rank for rank in ranks[: ranks.index(failed)] if not LOST_PEER.search(self.exceptions[rank])]
        return f"; rank {earlier[-1]} had printed before: {self.exceptions[earlier[-1]]}" if earlier else ""

    def _complete(self, rank: int, stream: str, found: _Stream, line: str, now: float) -> None:
        """Shows a line, or what is not shown of it yet."""
        if found.shown:
            rest = line if found.line.is_bar or found.is_open else line.removeprefix(found.shown)
            if found.is_open:
                self.write(stream, f"{line.removeprefix(found.shown)}\n" if line.startswith(found.shown) else f"\n{line}\n")
            elif rest not in ("", found.shown):
                self.write(stream, f"{self._prefixed(rank, rest)}\n")
            return
        if stream == "stderr" and self.world > 1:
            line = re.sub(rf"^\[rank{rank}\]: ?", "", line)  # torch prefixes the lines of an exception, too
            if rank in self._blocks or line.startswith(TRACEBACK):
                self._add_to_block(rank, line, now)
                return
        self.write(stream, f"{self._prefixed(rank, line)}\n")

    def _show_unfinished(self, rank: int, stream: str, found: _Stream) -> None:
        text, before = found.line.text, found.shown
        if not text.strip() or text == before:
            return
        grown = text.startswith(before) and not found.line.is_bar
        if found.is_open and not grown:
            self.write(stream, "\n")
        found.shown, found.is_open = text, self.world == 1 and not found.line.is_bar
        rest = text.removeprefix(before) if grown else text
        self.write(stream, self._prefixed(rank, rest) + ("" if found.is_open else "\n"))

    def _add_to_block(self, rank: int, line: str, now: float) -> None:
        self._blocks.setdefault(rank, []).append(line)
        self._since.setdefault(rank, now)
        if not line.startswith((" ", TRACEBACK)):
            self.exceptions.pop(rank, None)
            self.exceptions[rank] = line
            self._end_block(rank)

    def _end_block(self, rank: int) -> None:
        self._since.pop(rank)
        for line in self._blocks.pop(rank):
            self.write("stderr", f"{self._prefixed(rank, line)}\n")

    def _prefixed(self, rank: int, text: str) -> str:
        return f"[rank {rank}] {text}" if self.world > 1 else text
