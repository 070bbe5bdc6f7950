"""Opens a trace, and collects its problems: all kinds, each with how often it occurs and where first."""

import gzip
from collections import Counter
from collections.abc import Iterable
from io import BufferedIOBase
from pathlib import Path

from heliostat.errors import UserError, combined

SHOWN = 3
"""Rows that a message names for each kind of problem."""


def opened(path: Path) -> BufferedIOBase:
    """A file, unpacked if it is compressed."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


class Problems:
    """The problems of one trace."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._found: dict[tuple[str, str, str], list[str]] = {}
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def add(self, field: str, why: str, rows: Iterable[tuple[object, int]], fix: str) -> None:
        """Add rows with one kind of problem.

        Args:
            field: the column.
            why: what is wrong, as the end of a sentence: ``duration is -3 (line 7), but must be at least 0``.
            rows: the value and the line of each.
            fix: what to do.
        """
        kind = (field, why, fix)
        for value, line in rows:
            self._counts[kind] += 1
            if len(shown := self._found.setdefault(kind, [])) < SHOWN:
                shown.append(f"{str(value)[:60] or 'empty'} (line {line})")

    def refuse(self) -> None:
        """Raise `UserError` with all of them, if there are any."""
        errors = []
        for kind, shown in self._found.items():
            field, why, fix = kind
            more = self._counts[kind] - len(shown)
            rows = ", ".join(shown) + (f" and so in {more} more" if more else "")
            errors.append(UserError(f"{field} is {rows}, {why}", fix))
        if len(errors) == 1:
            raise UserError(f"{self.where}: {errors[0].what}", errors[0].fix)
        if errors:
            raise combined(errors, self.where)
