"""What the texts in a column of a table stand for: numbers, dates, missing values, or categories.

Everything is computed by Arrow on chunks of columns or on their distinct values.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

MISSING = (
    "", "na", "n/a", "n.a.", "#n/a", "#n/a n/a", "#na", "<na>", "nan", "-nan", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
    "nat", "null", "nil", "(null)", "\\n", "missing", "?", "??", "???", "-", "--", "---", "\u2013", "\u2014", ".", "..", "...",
    "#div/0!", "#null!", "#num!", "#ref!", "#value!", "#name?",
)  # fmt: skip
"""How programs write that a value is missing, in lower case: pandas' and Arrow's lists, UCI's ?, databases, spreadsheets."""
PYTHON_NONE = "None"
"""Python's; in lower case it is a category of its own in many tables (no treatment, no fence)."""

GROUP = r"[,.'_ \x{2019}\x{00a0}\x{202f}]"
WHOLE = rf"(?:\d{{1,3}}(?:{GROUP}\d{{2,3}})*{GROUP}\d{{3}}|\d+)"
NUMBER = rf"(?:{WHOLE}(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?"
SIGN, MONEY = r"[+\-\x{2212}\x{2013}]?", r"(?:[$€£¥₹₽₩₺]|(?:USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD)\b|US\$)?"
PLAIN = r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$"
FORMATTED = rf"^\(?{SIGN}\s?{MONEY}\s?{SIGN}{NUMBER}\s?(?:%|‰|{MONEY})\s?\)?$"
WITH_UNIT = rf"^{SIGN}{NUMBER}\s?(?P<unit>[A-Za-zµμ°Ω][A-Za-zµμ°Ω0-9²³/^]*)$"
ORDINALS = {"st", "nd", "rd", "th"}
MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
DATE = "|".join((
    r"^\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ].*)?$",  # 2024-01-31, with or without a time
    r"^\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})(?: .*)?$",  # 31.01.2024, 1/31/24
    r"^(?:19|20)\d{2}[-/](?:0[1-9]|1[0-2])$",  # 2024-01
    rf"(?i)^(?:[a-z]{{2,9}},? )?\d{{1,2}}[. -]+{MONTH}[., -]+\d{{2,4}}(?: .*)?$",  # 31 Jan 2024, Wed, 31 Jan 2024
    rf"(?i)^{MONTH}[. ]+(?:\d{{1,2}},? )?\d{{4}}(?: .*)?$",  # Jan 31, 2024; January 2024
    r"(?i)^\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?[ap]m)?$",  # 12:30
))  # fmt: skip
MOSTLY, LEAST = 0.8, 5
"""A column of texts is doubted if at least this share of its distinct values, and more than so many, are numbers or dates."""
TRUTHS = {"true", "false", "yes", "no", "y", "n", "t", "f", "on", "off", "1", "0"}
SHOWN = 3
MANY = 1000
"""Texts with more distinct values are no categories or classes, so that their spelling does not matter."""


def trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts without white space at their ends; null as the empty text."""
    return pc.utf8_trim_whitespace(pc.fill_null(column, ""))


def missing(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which of some trimmed texts say that a value is missing."""
    listed = pc.is_in(pc.utf8_lower(texts), value_set=pa.array(MISSING, texts.type))
    return pc.or_(listed, pc.equal(texts, PYTHON_NONE))


NUMBERS = ("int64", "float64")


def castable(texts: pa.Array, tried: Collection[str] = NUMBERS) -> set[str]:
    """As which types of numbers, of those that are ``tried``, Arrow reads all of some texts."""
    kinds = set()
    for name in (name for name in NUMBERS if name in tried):
        try:
            values = pc.cast(texts, name)
        except pa.ArrowInvalid:
            continue
        if name == "int64" or not pc.any(pc.is_nan(values)).as_py():
            kinds.add(name)
        if name == "int64" and not pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py():
            return set(tried)  # all but what is written as 0x1F
    return kinds


def are_truths(texts: pa.Array) -> bool:
    """Whether all texts are true and false, in any case."""
    lower = pc.utf8_lower(texts)
    return bool(pc.all(pc.is_in(lower, value_set=pa.array(["true", "false"], lower.type))).as_py())


def padded(texts: pa.ChunkedArray) -> str | None:
    """One of the whole numbers that are written with zeros before them, such as 01234."""
    return _first(texts, r"^0\d+$")


def beyond(texts: pa.ChunkedArray) -> str | None:
    """One of the whole numbers that a floating-point number of 64 bits rounds: those of more than 15 digits."""
    return _first(texts, r"^[+-]?[1-9]\d{15,}$")


def doubts(values: pa.Array, target: bool = False) -> tuple[str, str] | None:
    """Why texts are no categories or classes, and what to do: they are numbers, dates, or spelt in two ways; None if they are.

    Args:
        values: the different ones, without missing values.
        target: whether they are classes, which may be plain numbers or have a unit, such as 1 star.
    """
    date = pc.match_substring_regex(values, DATE)
    if _most(values, date):
        return f"has dates or times, such as {_some(values, date)}", "convert them to numbers, such as days or years"
    plain, formatted = pc.match_substring_regex(values, PLAIN), _formatted(values, units=not target)
    if pc.any(pc.and_not(formatted, plain)).as_py() and _most(values, formatted):
        odd = _some(values, pc.and_not(formatted, plain))
        return f"has numbers with signs, separators or units, such as {odd}", "write them as 1234.5"
    if not target and _most(values, formatted):
        if pc.all(plain).as_py():
            return (
                f"has numbers as texts, such as {_some(values, plain)}",
                "convert them to numbers, or for categories write c1, c2",
            )
        odd = _some(values, pc.invert(formatted))
        return f"has numbers, but also {odd}", "fill these or drop their rows, or for categories write c1, c2"
    return _variants(values)


def _variants(values: pa.Array) -> tuple[str, str] | None:
    if len(values) > MANY:
        return None
    spellings: dict[str, list[str]] = defaultdict(list)
    for value in values.to_pylist():
        spellings[" ".join(unicodedata.normalize("NFKC", value).split()).casefold()].append(value)
    twice = [" and ".join(map(repr, sorted(each))) for each in spellings.values() if len(each) > 1]
    if twice:
        return f"has texts that differ only in case or blanks: {', '.join(twice[:SHOWN])}", "write each in one way"
    if len(values) > 2 and spellings.keys() <= TRUTHS:
        return f"has {', '.join(map(repr, sorted(values.to_pylist())))} for true and false", "write each in one way"
    return None


def _formatted(values: pa.Array, units: bool) -> pa.Array:
    """Which values are numbers, also with separators, a currency, a percent sign, or with ``units`` the same in all of them."""
    found = pc.match_substring_regex(values, FORMATTED)
    if not units:
        return found
    unit = pc.struct_field(pc.extract_regex(values, WITH_UNIT), "unit")
    kinds = set(unit.drop_null().unique().to_pylist())
    # 5 kg, 7 kg, 0.5kg, but not 1st, 2nd; 2WD, 4WD.
    measured = len(values) > LEAST or pc.any(pc.match_substring_regex(values, "[ .,]")).as_py()
    same = len(kinds) == 1 and not kinds <= ORDINALS
    return pc.or_(found, pc.is_valid(unit)) if same and measured else found


def _most(values: pa.Array, mask: pa.Array) -> bool:
    count = pc.sum(mask).as_py() or 0
    return bool(count == len(values) > 0 or (count > LEAST and count >= MOSTLY * len(values)))


def _some(values: pa.Array, mask: pa.Array) -> str:
    return ", ".join(repr(value) for value in values.filter(mask)[:SHOWN].to_pylist())


def _first(texts: pa.ChunkedArray, pattern: str) -> str | None:
    found = texts.filter(pc.match_substring_regex(texts, pattern))
    return str(found[0]) if len(found) else None
