"""What the texts in a column of a table stand for: truth values, numbers, dates, lists, or categories."""

import unicodedata
from collections import defaultdict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.datasets.encoding import FALSE, TRUE
from heliostat.datasets.values import dates, numbers
from heliostat.datasets.values.dates import Format
from heliostat.datasets.values.narrow import Summary
from heliostat.datasets.values.numbers import Decimal

MOSTLY, LEAST = 0.8, 5
"""A column of texts is doubted if at least this share of its distinct values, and more than so many, are numbers or dates."""
WORDS = {"true", "false", "yes", "no", "on", "off", "1", "0"}
LETTERS = ({"y", "n"}, {"t", "f"})
SHOWN = 3
MANY = 1000
"""Texts with more distinct values are no categories or classes, so that their spelling does not matter."""
CATEGORY = "give its type as category in dataset.options.columns"
TIMES = (
    (
        r"^(?:19|20)\d{2}[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ,_-]+\d{1,2}[:.h]\d{2}\S*)?(?:\s\S+)?$"
        r"|^\d{1,2}[. -]+\pL{3,9}\.?[ -]+(?:19|20)?\d{2}(?:\s+\d{1,2}:\d{2}\S*)?$",
        "what looks like dates, but cannot be read",
        "write them like 2024-01-31 12:30",
    ),
    (
        r"^[-+]?\d+ days?,?(?: [-+]?\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?)?$|^-?P(?:\d+[YMWD])*T(?:[\d.]+[HMS])+$"
        r"|^[-+]?\d{1,4}(?::[0-5]\d){1,2}(?:[.,]\d+)?$"  # those of a day were read as times
        r"|^(?:\d+(?:\.\d+)? ?(?:d|h|hrs?|m|mins?|s|secs?) ?){2,}$",
        "durations",
        "write them as numbers, such as hours",
    ),
)
"""Patterns of texts that are neither dates in a format that is read nor categories, what they are, and what to do."""
Mask = npt.NDArray[np.bool_]


class Doubt(Exception):
    """What is wrong with a column, and what to do."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.what, self.fix = what, fix


def are_truths(texts: pa.Array) -> bool:
    """Whether different texts are true and false, yes and no, on and off, y and n, or t and f, in any case."""
    if len(texts) > SHOWN * len(WORDS):
        return False
    lower = {text.lower() for text in texts.to_pylist()}
    both = bool(lower & {"true", "yes", "on", "1"}) and bool(lower & {"false", "no", "off", "0"})
    return lower in LETTERS or (lower <= WORDS and both and not lower <= {"0", "1"})


def date_format(texts: pa.Array) -> Format | None:
    """The format of the dates that texts are; None if they are none.

    Raises:
        Doubt: the order of day and month cannot be known, or some texts are no dates.
    """
    each = dict(dates.formats(texts))
    found = {kind: good for kind, good in each.items() if is_most(good)}
    if not found:
        if len(each) > 1 and is_most(np.logical_or.reduce([*each.values()])):
            shown = ", ".join(dict.fromkeys(repr(texts[int(good.argmax())].as_py()) for good in each.values()))
            raise Doubt(f"has dates in different formats, such as {shown}", f"write all in one, or {CATEGORY}")
        return None
    whole = [kind for kind, good in found.items() if good.all()]
    if len(whole) > 1 and not _same(texts, whole):
        if pc.all(pc.match_substring_regex(texts, r"^\d{1,2}\.")).as_py():
            return "day-month-year"  # with points, the day is always first
        raise Doubt(
            f"has dates of which day and month cannot be told apart, such as {some(texts, found[whole[0]])}",
            "give its type as day-month-year or month-day-year in dataset.options.columns",
        )
    if not whole:
        good = max(found.values(), key=lambda mask: int(mask.sum()))
        raise Doubt(
            f"has dates, but also {some(texts, ~good)}",
            "give these as missing in dataset.options.columns, or give its type as category",
        )
    return whole[0]


def number_style(texts: pa.Array, target: bool = False) -> tuple[Decimal, str | None] | None:
    """What separates the decimals of the numbers that texts are, and their unit; None if they are no numbers.

    Args:
        texts: the different ones, without missing values.
        target: whether they are classes, which may have a unit, such as 1 star.

    Raises:
        Doubt: some are no numbers, or they have different separators or units.
    """
    best: tuple[Decimal, Mask] | None = None
    plain = {decimal: np.asarray(numbers.matches(texts, decimal, units=False)) for decimal in numbers.DECIMALS}
    for decimal, good in plain.items():
        if not target and _measured(texts, decimal):
            good = np.asarray(numbers.matches(texts, decimal, units=True))
        if best is None or good.sum() > best[1].sum():
            best = decimal, good
    assert best
    decimal, good = best
    if not is_most(good):
        point, comma = plain.values()
        if is_most(point | comma):
            signs = f"has numbers with a decimal point and with a comma: {some(texts, point & ~comma)}, but also"
            kind = "give target_type: class" if target else CATEGORY
            raise Doubt(f"{signs} {some(texts, comma & ~point)}", f"write all in one way, or {kind}")
        if not target and (several := _several_units(texts)):
            raise Doubt(f"has numbers with different units: {', '.join(several)}", f"write all in one unit, or {CATEGORY}")
        return None
    if not good.all():
        raise Doubt(
            f"has numbers, but also {some(texts, ~good)}",
            "give these as missing in dataset.options.columns, or give its type as category",
        )
    units = numbers.units_of(texts, decimal, units=True)
    if len(units) > 1:
        raise Doubt(f"has numbers with different units: {', '.join(sorted(units))}", "write all in one unit")
    unit = next(iter(units), None)
    if unit and not numbers.is_money(unit) and pc.any(bare := numbers.without_unit(texts, decimal)).as_py():
        with_it, without = some(texts, ~np.asarray(bare)), some(texts, np.asarray(bare))
        raise Doubt(
            f"has numbers with and without {unit}: {with_it}, but also {without}", f"write all in one unit, or {CATEGORY}"
        )
    return decimal, unit


def check_times(texts: pa.Array) -> None:
    """Refuse texts most of which look like dates or durations: as categories they would say little.

    Raises:
        Doubt: they do; they are not in one of the formats that are read.
    """
    for pattern, what, fix in TIMES:
        mask = np.asarray(pc.match_substring_regex(texts, pattern))
        if is_most(mask):
            raise Doubt(f"has {what}, such as {some(texts, mask)}", f"{fix}, or {CATEGORY}")


def are_dates_of_digits(values: pa.Array, found: Summary) -> bool:
    """Whether whole numbers, of which some are given, are dates such as 20240131."""
    if not 19000101 <= found.least <= found.most <= 20991231:
        return False
    different = pc.unique(pc.cast(values, pa.string()))
    return len(different) >= SHOWN and bool(dates.parse(different, "digits")[1].all())


def are_lists(texts: pa.Array) -> bool:
    """Whether all texts are lists in brackets, as JSON and Python write them."""
    return len(texts) > 0 and bool(pc.all(pc.match_substring_regex(texts, r"^\[.*\]$")).as_py())


def words(texts: pa.Array) -> float:
    """The mean number of words of different texts."""
    return float(pc.mean(pc.add(pc.count_substring_regex(texts, r"\s+"), 1)).as_py() or 0)


def spelt_twice(texts: pa.Array) -> str | None:
    """Texts that differ only in case or blanks; None if there are none, or the texts are too many for categories."""
    if len(texts) > MANY:
        return None
    spellings: dict[str, list[str]] = defaultdict(list)
    for text in texts.to_pylist():
        spellings[" ".join(unicodedata.normalize("NFKC", text).split()).casefold()].append(text)
    twice = [" and ".join(map(repr, sorted(each))) for each in spellings.values() if len(each) > 1]
    return ", ".join(twice[:SHOWN]) or None


def truth_twice(texts: pa.Array) -> str | None:
    """Texts that are two words for yes or for no, such as Yes and Y; None if there are none."""
    words = texts.to_pylist() if len(texts) <= SHOWN * len(WORDS) else []
    found = [[text for text in words if text.lower() in several] for several in (TRUE, FALSE)]
    several = [each for each in found if _one_word({text.lower() for text in each})]
    if not several or not all(found) or sum(map(len, found)) < len(words):
        return None
    return ", ".join(" and ".join(map(repr, sorted(each))) for each in several)


def _one_word(words: set[str]) -> bool:
    """Whether a word and its first letter are among them: N and F may be normal and fault."""
    return any(len(word) > 1 and word[0] in words for word in words)


def is_most(mask: Mask) -> bool:
    """Whether a mask is true for most different values of a column."""
    count = int(mask.sum())
    return count == len(mask) > 0 or (count > LEAST and count >= MOSTLY * len(mask))


def some(texts: pa.Array, mask: Mask) -> str:
    """The first of the texts for which the mask is true, to be shown."""
    return ", ".join(map(repr, texts.filter(pa.array(mask))[:SHOWN].to_pylist()))


def _same(texts: pa.Array, kinds: list[Format]) -> bool:
    """Whether some formats read the same from texts, as 05.05.2024."""
    first, *others = (dates.parse(texts, kind)[0] for kind in kinds)
    return all(bool((first == other).all()) for other in others)


def _several_units(texts: pa.Array) -> list[str]:
    """The units of quantities that have different ones: 70.5 kg, 155 lb, but not the letters of house numbers."""
    for decimal in numbers.DECIMALS:
        if len(texts) <= LEAST or not pc.all(numbers.matches(texts, decimal, units=True)).as_py():
            continue
        units = numbers.units_of(texts, decimal, units=True)
        if 2 <= len(units) <= SHOWN and pc.any(pc.match_substring_regex(texts, "[ .,]")).as_py():
            return sorted(units)
    return []


def _measured(texts: pa.Array, decimal: Decimal) -> bool:
    """Whether all have the same unit and are quantities: 5 kg, 7 kg, 0.5kg, but not 1st, 2nd; 2WD, 4WD."""
    units = numbers.units_of(texts, decimal, units=True)
    many = len(texts) > LEAST or bool(pc.any(pc.match_substring_regex(texts, "[ .,]")).as_py())
    return len(units) == 1 and not units <= numbers.ORDINALS and many
