"""Dates and times of rows as seconds since 1970, or since midnight, and their parts."""

import datetime
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

DAY = 86_400
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MICROSECOND = datetime.timedelta(microseconds=1)
Seconds = npt.NDArray[np.float64]
Found = dict[str, str | None]


def of_texts(texts: Sequence[str], patterns: Sequence[str], is_time: bool) -> tuple[Seconds, list[bool]]:
    """The seconds of texts, and which are dates by one of the patterns; the first that a text is of decides."""
    seconds, good = np.zeros(len(texts)), []
    for at, text in enumerate(texts):
        found = next((each for each in (_parsed(text, pattern, is_time) for pattern in patterns) if each is not None), None)
        good.append(found is not None)
        seconds[at] = found or 0.0
    return seconds, good


def _parsed(text: str, pattern: str, is_time: bool) -> float | None:
    match = re.match(pattern, text, re.ASCII)
    if not match:
        return None
    part = match.groupdict()
    hours, minutes, seconds = (_number(part[name]) for name in ("H", "M", "S"))
    half = (part["half"] or "").replace(".", "").lower()
    if hours >= 24 or minutes >= 60 or seconds >= 61 or (half and not 1 <= hours <= 12):
        return None
    if half:
        hours = hours % 12 + 12 * (half == "pm")
    clock = hours * 3600 + minutes * 60 + seconds
    if is_time:
        return clock
    days = _days(part)
    return None if days is None else days * DAY + clock - _zone(part["zone"] or "")


def _days(part: Found) -> float | None:
    """The days since 1970 of a date that there is; two digits of a year are 1969 to 2068, as in POSIX."""
    written = part["y"] or ""
    year = int(written) + (0 if len(written) != 2 else 2000 if int(written) < 69 else 1900)
    month = MONTHS.index((part["name"] or "")[:3].lower()) + 1 if "name" in part else int(part["m"] or 0)
    day = int(part.get("d") or 1)
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    first = np.int64((year - 1970) * 12 + month - 1)
    start, end = (
        np.int64(each).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) for each in (first, first + 1)
    )
    return float(start + day - 1) if day <= end - start else None


def _number(text: str | None) -> float:
    return float(text.replace(",", ".")) if text else 0.0


def _zone(text: str) -> float:
    digits = re.sub("[^0-9]", "", text)
    return (_number(digits[:2]) * 3600 + _number(digits[2:4]) * 60) * (-1.0 if text.startswith("-") else 1.0)


def of_values(values: Sequence[Any]) -> Seconds:
    """The seconds of dates, times and timestamps of Python; without a zone they are UTC."""
    return np.array([_of_value(each) for each in values], np.float64)


def _of_value(value: Any) -> float:
    if isinstance(value, datetime.time):
        return (((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond) / 1e6
    if not isinstance(value, datetime.datetime):
        return float((value - datetime.date(1970, 1, 1)).days * DAY)
    zone = datetime.UTC if value.tzinfo else None
    return (value - datetime.datetime(1970, 1, 1, tzinfo=zone)) // MICROSECOND / 1e6


def parts(seconds: Seconds, timed: bool) -> Seconds:
    """Year, month, day, weekday (Monday is 0), the hour with its fraction if ``timed``: (values, 4 or 5)."""
    days = np.floor(seconds / DAY).astype(np.int64)
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    columns = [
        dates.astype("datetime64[Y]").astype(np.int64) + 1970,
        months.astype(np.int64) % 12 + 1,
        (dates - months.astype("datetime64[D]")).astype(np.int64) + 1,
        (days + 3) % 7,
        *([(seconds - days * DAY) / 3600] if timed else []),
    ]
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
