"""Dates and times as texts: which format a column has, and the seconds since 1970 that its texts stand for."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Format = Literal[
    "year-month-day", "year-month", "day-month-year", "month-day-year", "day-name-year", "name-day-year", "digits", "time"
]  # fmt: skip
Seconds = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
DAY = 86_400
CLOCK = r"(?P<H>\d{1,2}):(?P<M>\d{2})(?::(?P<S>\d{2}(?:[.,]\d+)?))?\s?(?P<half>(?:[AaPp]\.?[Mm]\.?)?)"
ZONE = r"\s?(?P<zone>(?:Z|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})?)"
TIME = rf"(?:(?:T|\s+|, ?){CLOCK}{ZONE})?$"
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
NAME = r"(?P<name>(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*)"
YEAR = r"(?P<y>\d{4}|\d{2})"
PATTERNS: dict[Format, str] = {
    "year-month-day": rf"^(?P<y>\d{{4}})[-/.](?P<m>\d{{1,2}})[-/.](?P<d>\d{{1,2}}){TIME}",
    "year-month": rf"^(?P<y>(?:19|20)\d{{2}})[-/](?P<m>0[1-9]|1[0-2]){TIME}",
    "day-month-year": rf"^(?P<d>\d{{1,2}})[-/.](?P<m>\d{{1,2}})[-/.]{YEAR}{TIME}",
    "month-day-year": rf"^(?P<m>\d{{1,2}})[-/.](?P<d>\d{{1,2}})[-/.]{YEAR}{TIME}",
    "day-name-year": rf"(?i)^(?:[a-z]{{2,9}}\.?,? )?(?P<d>\d{{1,2}})\.?[ -]*{NAME}[.,]?[ -]*{YEAR}{TIME}",
    "name-day-year": rf"(?i)^(?:[a-z]{{2,9}}\.?,? )?{NAME}[. ]+(?:(?P<d>\d{{1,2}}),? +)?(?P<y>\d{{4}}){TIME}",
    "digits": rf"^(?P<y>(?:19|20)\d{{2}})(?P<m>\d{{2}})(?P<d>\d{{2}}){TIME}",
    "time": rf"^{CLOCK}$",
}


def formats(texts: pa.Array) -> Iterator[tuple[Format, Mask]]:
    """The formats that some texts may have, and which texts are dates in it."""
    for kind in PATTERNS:
        _, good, _ = parse(texts, kind)
        if good.any():
            yield kind, good


def parse(texts: pa.Array, kind: Format) -> tuple[Seconds, Mask, bool]:
    """The seconds since 1970 (of times, since midnight), which texts are such dates, and whether one has a time of day.

    A date without a zone is taken as UTC. Two digits of a year are 1969 to 2068, as in POSIX.
    """
    found = pc.extract_regex(texts, PATTERNS[kind])
    if found.null_count == len(found):
        return np.zeros(len(texts)), np.zeros(len(texts), bool), False
    there = {field.name for field in found.type}
    part = {name: _number(pc.struct_field(found, name)) for name in ("y", "m", "d", "H", "M", "S") if name in there}
    half = pc.utf8_lower(pc.replace_substring(pc.struct_field(found, "half"), ".", ""))
    hours, good = part["H"], np.asarray(pc.is_valid(found))
    twelve = np.asarray(pc.fill_null(pc.is_in(half, value_set=pa.array(["am", "pm"])), False))
    good = good & (hours < 24) & (part["M"] < 60) & (part["S"] < 61) & ~(twelve & ((hours < 1) | (hours > 12)))
    afternoon = np.asarray(pc.fill_null(pc.equal(half, "pm"), False))
    hours = np.where(twelve, hours % 12 + 12 * afternoon, hours)
    seconds = hours * 3600 + part["M"] * 60 + part["S"]
    if kind == "time":
        return np.where(good, seconds, 0), good, True
    if "name" in there:
        name = pc.utf8_slice_codeunits(pc.utf8_lower(pc.struct_field(found, "name")), 0, 3)
        part["m"] = np.asarray(pc.fill_null(pc.index_in(name, value_set=pa.array(MONTHS)), 0)).astype(float) + 1
    short = np.asarray(pc.fill_null(pc.equal(pc.utf8_length(pc.struct_field(found, "y")), 2), False))
    years = np.where(short, part["y"] + np.where(part["y"] < 69, 2000, 1900), part["y"])
    # Of a month without a day, it is the first.
    first = np.asarray(pc.equal(pc.fill_null(pc.struct_field(found, "d"), ""), "")) if "d" in there else True
    days, valid = _days(years, part["m"], np.where(first, 1, part.get("d", 1)))
    zone = _zone(pc.struct_field(found, "zone"))
    timed = bool(pc.any(pc.and_(pc.is_valid(found), pc.not_equal(pc.struct_field(found, "M"), ""))).as_py())
    return np.where(good & valid, days * DAY + seconds - zone, 0), good & valid, timed


def parts(seconds: Seconds, timed: bool) -> npt.NDArray[np.float64]:
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


def of_arrow(values: pa.Array) -> tuple[Seconds, bool]:
    """The seconds since 1970 of dates and timestamps (without a zone as UTC), or since midnight of times; and whether timed."""
    kind = values.type
    if pa.types.is_time(kind):
        micro = pc.cast(pc.cast(values, pa.time64("us"), safe=False), pa.int64())
        return np.asarray(micro) / 1e6, True
    if pa.types.is_date32(kind):
        return np.asarray(pc.cast(values, pa.int32())) * float(DAY), False
    micro = pc.cast(pc.cast(values, pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False), pa.int64())
    return np.asarray(micro) / 1e6, not pa.types.is_date(kind)


def _number(texts: pa.Array) -> npt.NDArray[np.float64]:
    """Digits as numbers; 0 for what is not there."""
    there = pc.replace_substring(texts, ",", ".")
    return np.asarray(pc.cast(pc.if_else(pc.equal(pc.fill_null(there, ""), ""), "0", there), pa.float64()))


def _days(years: Seconds, months: Seconds, days: Seconds) -> tuple[Seconds, Mask]:
    """The days since 1970, and which dates there are."""
    valid = (months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)
    first = (years.astype(np.int64) - 1970) * 12 + np.where(valid, months, 1).astype(np.int64) - 1
    start = first.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    length = (first + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) - start
    return start + days - 1.0, valid & (days <= length)


def _zone(texts: pa.Array) -> Seconds:
    """The seconds by which a zone such as +02:00 is ahead."""
    digits = pc.replace_substring_regex(pc.fill_null(texts, ""), "[^0-9]", "")
    hours, minutes = (_number(pc.utf8_slice_codeunits(digits, at, at + 2)) for at in (0, 2))
    west = np.asarray(pc.starts_with(pc.fill_null(texts, ""), "-"))
    return (hours * 3600 + minutes * 60) * np.where(west, -1.0, 1.0)
