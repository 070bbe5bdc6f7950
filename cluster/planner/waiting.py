"""A job in the fast model, and the lines in which jobs wait."""

from collections import OrderedDict

from heliostat.cluster.planner.pool import Claim
from heliostat.cluster.planner.shapes import Size


class Run:
    """A job from its submission, or its interruption, to its end or the next interruption."""

    __slots__ = (
        "at", "claim", "claimed", "ends", "extra", "grows_to", "missing", "over", "pause", "queued", "row", "running",
        "seconds", "since", "sizes",
    )  # fmt: skip

    def __init__(self, row: int, seconds: float, sizes: tuple[Size, ...], queued: float) -> None:
        self.row, self.seconds, self.sizes, self.queued = row, seconds, sizes, queued
        """``seconds`` are left, with the GPUs of the trace."""
        self.at = self.grows_to = 0
        """The numbers of its size, and of that with the extra claim."""
        self.claim: Claim = []
        self.extra: Claim = []
        """With which it grows once all of its nodes are up."""
        self.missing = 0
        """Nodes of the claim, or of the extra one, that are not up yet."""
        self.since = self.ends = self.pause = 0.0
        """When it got its size, when it ends, and how long it computed nothing first."""
        self.claimed = self.running = self.over = False

    @property
    def size(self) -> Size:
        return self.sizes[self.at]


class Lines:
    """Jobs that wait, in one line, or with ``by_size`` those that are alike in a line of their own."""

    def __init__(self, by_size: bool) -> None:
        self.by_size = by_size
        self.lines: dict[int, OrderedDict[Run, int]] = {}
        """With the place of each among all."""
        self._first = self._last = 0

    def _key(self, run: Run) -> int:
        return id(run.sizes) if self.by_size else 0  # equal jobs share them

    def behind_others(self, run: Run) -> bool:
        """Whether a job would not be the first of its line."""
        return self._key(run) in self.lines

    def add(self, run: Run) -> None:
        self._last += 1
        self.lines.setdefault(self._key(run), OrderedDict())[run] = self._last

    def add_in_front(self, run: Run) -> None:
        self._first -= 1
        line = self.lines.setdefault(self._key(run), OrderedDict())
        line[run] = self._first
        line.move_to_end(run, last=False)

    def remove(self, run: Run) -> None:
        line = self.lines[self._key(run)]
        del line[run]
        if not line:
            del self.lines[self._key(run)]

    def heads(self) -> list[Run]:
        """The first of each line, in the order of their places."""
        firsts = [next(iter(line.items())) for line in self.lines.values()]
        if len(firsts) == 1:  # nearly always
            return [firsts[0][0]]
        return [run for run, _ in sorted(firsts, key=lambda pair: pair[1])]
