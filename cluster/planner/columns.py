"""Columns of text from a trace as numbers: fast where all is well, row by row where it is not."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.cluster.planner.jobs import Floats, Ints
from heliostat.cluster.planner.problems import Problems

NO_ZONE = "add --time-zone with the zone in which it was written, such as Europe/Berlin or UTC"


class Columns:
    """The parser of one trace; problems are collected, and their rows become 0.

    Args:
        problems: where to.
        zone: of times that have none.
    """

    def __init__(self, problems: Problems, zone: str | None) -> None:
        self._problems, self._zone = problems, zone
        self._times = ""
        """How this trace writes times: numbers, with a zone, or without one."""

    def numbers(self, name: str, texts: pa.Array, lines: Ints, whole: bool = False) -> Floats:
        """Numbers that are not negative; ``whole`` ones may be written as 2.0."""
        texts = pc.utf8_trim_whitespace(texts)
        try:
            values = np.asarray(pc.cast(texts, pa.float64()).to_numpy(zero_copy_only=False), np.float64)
        except pa.ArrowInvalid:
            values = np.array([_number(text) for text in texts.to_pylist()])
        wrong = ~np.isfinite(values)
        self._report(name, texts, lines, wrong, "but must be a number", _fix(name))
        self._report(name, texts, lines, ~wrong & (values < 0), "but must be at least 0", f"{_fix(name)}, or correct it")
        if whole:
            broken = ~wrong & (values != np.floor(values))
            self._report(name, texts, lines, broken, "but must be a whole number", "round it up")
            wrong |= broken
        return np.where(wrong | (values < 0), 0.0, values)

    def quantities(self, name: str, texts: pa.Array, lines: Ints, parse: Callable[[str], float], example: str) -> Floats:
        """Amounts of Kubernetes, such as ``64Gi``; an empty one is 0: not known.

        Args:
            name: of the column.
            texts: its values.
            lines: their lines.
            parse: raises ValueError if it is none.
            example: for messages.
        """
        encoded = pc.utf8_trim_whitespace(texts).dictionary_encode()
        words = encoded.dictionary.to_pylist()
        values = np.array([_parsed(parse, word) if word else 0.0 for word in words] or [0.0])
        rows = encoded.indices.to_numpy(zero_copy_only=False)
        wrong = np.isnan(values[rows])
        self._report(name, texts, lines, wrong, f"which is not an amount of {name}", f"write {example}, or leave it empty")
        return np.asarray(np.nan_to_num(values[rows]), np.float64)

    def times(self, name: str, texts: pa.Array, lines: Ints) -> Floats:
        """Seconds since the epoch, or numbers as they are; a trace has either numbers, or times with a zone, or without."""
        texts = pc.utf8_trim_whitespace(texts)
        kinds = {"numbers": pa.float64(), "with a zone": pa.timestamp("us", "UTC"), "without a zone": pa.timestamp("us")}
        for kind in [self._times] if self._times else kinds:
            try:
                values = pc.cast(texts, kinds[kind])
            except pa.ArrowInvalid:
                continue
            self._times = kind
            return self._seconds(name, values, texts, lines)
        return self._slow_times(name, texts, lines)

    def _seconds(self, name: str, values: pa.Array, texts: pa.Array, lines: Ints) -> Floats:
        if self._times == "numbers":
            return self.numbers(name, texts, lines)
        if self._times == "without a zone":
            values = self._in_zone(name, values, texts, lines)
        return np.asarray(pc.cast(values, pa.int64()).to_numpy(zero_copy_only=False), np.float64) / 1e6

    def _in_zone(self, name: str, values: pa.Array, texts: pa.Array, lines: Ints) -> pa.Array:
        if not self._zone:
            self._report(name, texts, lines, np.ones(len(texts), bool), "which has no time zone", NO_ZONE)
            return values
        # Of the hour that occurs twice when the clocks go back, the first.
        try:
            return pc.assume_timezone(values, self._zone, ambiguous="earliest", nonexistent="raise")
        except pa.ArrowInvalid:
            wrong = np.array([not _exists(time, self._zone) for time in values.to_pylist()])
            why = f"a time that the clocks of {self._zone} skipped"
            self._report(name, texts, lines, wrong, why, "correct it, or the time zone")
            return pc.assume_timezone(values, self._zone, ambiguous="earliest", nonexistent="earliest")

    def _slow_times(self, name: str, texts: pa.Array, lines: Ints) -> Floats:
        """The rows that are not times, or not written as those before."""
        found = [_kind(text) for text in texts.to_pylist()]
        self._times = self._times or next(filter(None, found), "")
        unknown = np.array([not kind for kind in found], bool)
        other = np.array([bool(kind) and kind != self._times for kind in found], bool)
        fix = "write 2026-01-31T12:00:00+01:00, or seconds as a number"
        self._report(name, texts, lines, unknown, "which is not a time", fix)
        why = f"but other lines have {'' if self._times == 'numbers' else 'times '}{self._times}"
        self._report(name, texts, lines, other, why, "write all in the same way")
        return np.zeros(len(texts))

    def _report(self, name: str, texts: pa.Array, lines: Ints, wrong: Any, why: str, fix: str) -> None:
        rows = np.flatnonzero(wrong)
        if len(rows):
            values = texts.take(pa.array(rows)).to_pylist()
            self._problems.add(name, why, zip(values, lines[rows].tolist(), strict=True), fix)


def _fix(name: str) -> str:
    return "leave out jobs that have not ended" if name == "duration" else f"give each job its {name}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _parsed(parse: Callable[[str], float], text: str) -> float:
    try:
        return parse(text)
    except ValueError:
        return np.nan


def _kind(text: str) -> str:
    if re.fullmatch(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", text):
        return "numbers"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return ""
    return "with a zone" if time.tzinfo else "without a zone"


def _exists(time: datetime, zone: str) -> bool:
    local = time.replace(tzinfo=ZoneInfo(zone))
    return datetime.fromtimestamp(local.timestamp(), ZoneInfo(zone)).replace(tzinfo=None) == time
