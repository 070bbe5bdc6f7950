"""The progress of building a dataset on standard error: a live line on a terminal, a line now and then in a pipe."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from heliostat.cluster.jobs.contents import megabytes
from heliostat.commands.terminal.live import Line
from heliostat.commands.terminal.phases import phase
from heliostat.console import duration, err

if TYPE_CHECKING:
    from heliostat.datasets.sources import Source

FIRST = 2.0
"""Seconds after which progress is shown."""
LIVE, LINES = 0.2, 5.0
"""Seconds between two texts on a terminal, and between two lines elsewhere."""


class Building:
    """Shows how far a source has been read; what `heliostat.datasets.sources.Progress` is."""

    def __init__(self) -> None:
        self._line = Line()
        self._next = time.monotonic() + FIRST
        self._doing, self._started = "", 0.0

    def __call__(self, doing: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if doing != self._doing:
            self._doing, self._started = doing, now
        if not doing:
            self._line.clear()
        elif now >= self._next:
            self._next = now + (LIVE if err.is_terminal else LINES)
            self._line.say(progress_text(doing, done, total, unit, now - self._started))


@contextmanager
def building(source: "Source | None", otherwise: str = "", quiet: bool = False) -> Iterator[None]:
    """Show the progress of building the dataset of a source, or, if there is nothing to build, what the block does.

    Args:
        otherwise: what it does then.
        quiet: whether nothing is shown where there is no terminal.
    """
    if source is None:
        with phase(otherwise, quiet):
            yield
        return
    if err.is_terminal or not quiet:
        source.progress = Building()
    yield


def progress_text(doing: str, done: int, total: int, unit: str, seconds: float) -> str:
    """What is done, with the rate and the time left, such as ``reading photos: 120 of 2,000 images, 60/s, 31 s left``.

    Without the time left where the ``total`` is 0, because it is not known.
    """
    if unit == "bytes":
        shown, rate = f"{megabytes(done)} of {megabytes(total)}", f"{megabytes(done / max(seconds, 1e-3))}/s"
    else:
        shown = f"{done:,} of {total:,} {unit}" if total else f"{done:,} {unit}"
        rate = f"{done / max(seconds, 1e-3):,.0f}/s"
    if not total:
        return f"{doing}: {shown}, {rate}"
    left = f", {rate}, {duration(seconds * max(total - done, 0) / done)} left" if done and seconds > 0 else ""
    return f"{doing}: {shown}{left}"
