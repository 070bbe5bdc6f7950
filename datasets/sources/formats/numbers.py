"""Numbers with a decimal comma or separated thousands, and which decimal sign the numbers of a file have."""

import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

SIGN, MONEY = r"[+\-\x{2212}\x{2013}(]?", r"(?:[$€£¥₹₽₩₺]|(?:USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD)|US\$)?"
SUFFIX = rf"(?:[eE][+-]?\d+)?\s?(?:%|‰|{MONEY}|[A-Za-zµμ°Ω][A-Za-zµμ°Ω0-9²³/^]{{0,7}})[-\x{{2212}}\x{{2013}}]?\)?"
BLANKS = r"\s\x{00a0}\x{202f}"
APOSTROPHES = r"'\x{2019}"

_EDGES = r"[-+\u2212\u2013(]?\s?[$€£¥₹]?\s?{}\s?[%‰$€£¥₹]?[-\u2212\u2013]?\)?"
_WHOLE = re.compile(_EDGES.format(r"\d+"))
_COMMA_OR_GROUP = re.compile(_EDGES.format(r"[1-9]\d{0,2},\d{3}"))
_POINT_OR_GROUP = re.compile(_EDGES.format(r"[1-9]\d{0,2}\.\d{3}"))
_COMMA = re.compile(_EDGES.format(r"(?:\d+,\d*|\d{0,3},\d+|\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,})(?:[eE][-+]?\d+)?"))
_POINT = re.compile(_EDGES.format(r"(?:\d+\.\d*|\d{0,3}\.\d+|\d{1,3}(?:,\d{3})+\.\d+|\d{1,3}(?:,\d{3}){2,})(?:[eE][-+]?\d+)?"))


def decimals(cells: Iterable[str]) -> set[str]:
    """Which decimal signs the numbers of a column show, "." and ","; none if it has texts.

    "1,234" and "1.234" stand for numbers such as these, whose sign may be one or separate thousands.
    """
    found = set()
    for cell in filter(None, map(str.strip, cells)):
        if _WHOLE.fullmatch(cell):
            continue
        if _COMMA_OR_GROUP.fullmatch(cell):
            found.add("1,234")
        elif _POINT_OR_GROUP.fullmatch(cell):
            found.add("1.234")
        elif _COMMA.fullmatch(cell):
            found.add(",")
        elif _POINT.fullmatch(cell):
            found.add(".")
        else:
            return set()
    return found


class Plain:
    """Writes numbers with a decimal point and without separated thousands.

    Args:
        decimal: the decimal sign.
        thousands: what separates thousands; None: what usually does beside that sign.
    """

    def __init__(self, decimal: str, thousands: str | None) -> None:
        self.decimal = decimal
        usual = rf".{BLANKS}{APOSTROPHES}_" if decimal == "," else rf",{BLANKS}{APOSTROPHES}_"
        group = {None: usual, " ": BLANKS, "'": APOSTROPHES}.get(thousands, thousands)
        sign = re.escape(decimal)
        number = rf"(?:\d{{1,3}}(?:[{group}]\d{{3}})+|\d+)(?:{sign}\d*)?|{sign}\d+"
        self.group = f"[{group}]"
        self.pattern = rf"^(?P<before>{SIGN}\s?{MONEY}\s?{SIGN})(?P<number>{number})(?P<after>{SUFFIX})$"

    def fits(self, texts: pa.Array) -> bool:
        """Whether all of some trimmed texts are such numbers."""
        return pc.all(pc.match_substring_regex(texts, self.pattern)).as_py() is not False

    def write(self, texts: pa.Array) -> pa.Array:
        """Trimmed texts, the numbers among them in the plain way; others as they are."""
        parts = pc.extract_regex(texts, self.pattern)
        number = pc.replace_substring_regex(pc.struct_field(parts, "number"), self.group, "")
        if self.decimal == ",":
            number = pc.replace_substring(number, ",", ".")
        plain = pc.binary_join_element_wise(pc.struct_field(parts, "before"), number, pc.struct_field(parts, "after"), "")
        return pc.coalesce(plain, texts)
