"""Numbers that are written as texts: plain ones, and those with separators, a sign, a currency, a percent sign or a unit."""

import re
from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Decimal = Literal[".", ","]
DECIMALS: tuple[Decimal, ...] = (".", ",")
SIGN, MONEY = r"[+\-\x{2212}\x{2013}]", r"(?:[$€£¥₹₽₩₺]|US\$|(?:USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD)\b)"
UNIT = r"[A-Za-zµμ°Ω][A-Za-zµμ°Ω0-9²³/^]*"
BLANKS = r"'_ \x{2019}\x{00a0}\x{202f}"
MINUS = r"[-\x{2212}\x{2013}]"
"""SAP and others write it after the number."""
ORDINALS = {"st", "nd", "rd", "th"}
PLAIN = r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$"


def _pattern(decimal: Decimal, units: bool) -> str:
    point, comma = (r"\.", ",") if decimal == "." else (",", r"\.")
    group = rf"[{comma}{BLANKS}]"
    whole = rf"(?:[1-9]\d{{0,2}}(?:{group}\d{{2,3}})*{group}\d{{3}}|\d+)"
    number = rf"(?:{whole}(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?"
    after = rf"%|‰|{MONEY}" + (f"|{UNIT}" if units else "")
    return (
        rf"^(?P<open>\(?)(?P<sign>{SIGN}?)\s?(?P<before>{MONEY}?)\s?(?P<sign2>{SIGN}?)\s?"
        rf"(?P<number>{number})\s?(?P<after>(?:{after})?)\s?(?P<sign3>{MINUS}?)\s?\)?$"
    )


PATTERNS = {(decimal, units): _pattern(decimal, units) for decimal in DECIMALS for units in (False, True)}


def plain(texts: pa.Array, kinds: Iterable[str] = ("int64", "double")) -> pa.Array | None:
    """Texts as numbers of the first type in which Arrow reads all of them; None if there is none, or some are NaN."""
    for kind in kinds:
        try:
            values = pc.cast(texts, kind)
        except pa.ArrowInvalid:
            continue
        if kind == "int64":
            # Arrow reads 0x1F.
            return None if pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py() else values
        return None if pc.any(pc.is_nan(values)).as_py() else values
    return None


def matches(texts: pa.Array, decimal: Decimal, units: bool) -> pa.Array:
    """Which texts are numbers in that style, with ``units`` also such as 5 kg."""
    return pc.and_(pc.match_substring_regex(texts, PATTERNS[decimal, units]), _closed(texts))


def _closed(texts: pa.Array) -> pa.Array:
    """Which have both brackets or none: (5) is -5, but 5) is the number of a list."""
    return pc.equal(pc.starts_with(texts, "("), pc.ends_with(texts, ")"))


def is_money(unit: str) -> bool:
    """Whether a unit is a currency, which may be left out."""
    return re.fullmatch(MONEY, unit) is not None


def without_unit(texts: pa.Array, decimal: Decimal) -> pa.Array:
    """Which of some numbers have no unit; 0 needs none."""
    found = pc.extract_regex(texts, PATTERNS[decimal, True])
    bare = pc.equal(pc.binary_join_element_wise(*(pc.struct_field(found, name) for name in ("before", "after")), ""), "")
    return pc.and_(bare, pc.match_substring_regex(pc.struct_field(found, "number"), "[1-9]"))


def units_of(texts: pa.Array, decimal: Decimal, units: bool) -> set[str]:
    """What stands before or after the numbers."""
    found = pc.extract_regex(texts, PATTERNS[decimal, units])
    parts = (pc.struct_field(found, name).drop_null().unique().to_pylist() for name in ("before", "after"))
    return {unit for part in parts for unit in part if unit}


def parse(texts: pa.Array, decimal: Decimal, unit: str | None) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The numbers that trimmed texts hold, and which of them hold one; another unit than that of the column is none."""
    found = pc.extract_regex(texts, PATTERNS[decimal, True])
    before, number, after = (pc.struct_field(found, name) for name in ("before", "number", "after"))
    stripped = pc.replace_substring_regex(number, rf"[{',' if decimal == '.' else '.'}{BLANKS}]", "")
    values = pc.cast(pc.replace_substring(stripped, ",", "."), pa.float64())
    negative = pc.equal(pc.struct_field(found, "open"), "(")
    for name in ("sign", "sign2", "sign3"):
        negative = pc.or_(negative, pc.is_in(pc.struct_field(found, name), value_set=pa.array(["-", "\u2212", "\u2013"])))
    allowed = pa.array(["", unit or ""], texts.type)
    good = pc.and_(pc.is_in(before, value_set=allowed), pc.is_in(after, value_set=allowed))
    good = pc.fill_null(pc.and_(pc.and_(good, pc.is_valid(number)), _closed(texts)), False)
    result = np.array(pc.fill_null(values, 0.0))
    result[np.asarray(pc.fill_null(negative, False))] *= -1
    return result, np.asarray(good)


def is_plain(text: str) -> bool:
    """Whether a text is a number that Python reads."""
    try:
        float(text)
    except ValueError:
        return False
    return True
