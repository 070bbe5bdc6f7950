"""Whether the values of a column are quantities, or classes: what else a table's numbers and names may be."""

import re

import pyarrow as pa

from heliostat.datasets.sources import cells
from heliostat.datasets.sources.distinct import Distinct, count_distinct
from heliostat.datasets.sources.narrow import Chunks, Narrowing, Summary

MAX_CATEGORIES = 100
MAX_CLASSES = 1000
FEW = 20
"""So many classes are never too many for the rows of a table."""
MISSING_NUMBERS = (-999, -9999, -99999)
"""What stands for a missing value among numbers of which no other is negative."""
COUNTER = re.compile(
    r"(.*[_\s.-]|row|serial|record|line|seq|s|sr|sl)(index|idx|row|no|nr|num|number|seq|serial)\.?"
    r"|index|idx|level_0|row|row_?(id|names?)|serial|instant|#",
    re.IGNORECASE,
)
"""Names of columns that number the rows, if their values do."""
IDENTIFIER = re.compile(
    r"(?i:(.*[_\s.-])?(id|ids|uuid|guid|zip|zip[_ ]?code|post[_ ]?code|postal[_ ]?code|plz|phone|ssn|isbn|ean|sku|barcode))"
    r"|.*[a-z](Id|ID)"
    r"|(?i:account|case|client|cust|customer|employee|item|loan|member|order|passenger|patient|person|product|record|session"
    r"|student|subject|transaction|user)ID"
)
"""Names of columns whose whole numbers are names of something and no quantities."""


def is_text(kind: pa.DataType) -> bool:
    """Whether a type of Arrow is that of texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def no_quantity(name: str, column: Chunks, found: Summary, way: Narrowing) -> tuple[str, str] | None:
    """Why the numbers of a column are no quantities, and what to do; None if they may be some.

    Args:
        name: of the column.
        column: its numbers.
        found: what they are, with counts of `MISSING_NUMBERS`.
        way: how they become float32.
    """
    for mark, count in found.marked.items():
        if count > 1 and found.negative == count:
            return f"has {count} values of {mark}, which stands for a missing one", "fill them or drop their rows"
    if not found.whole:
        return None
    large = abs(int(found.most)) > 2**53 and not way.offset
    named = IDENTIFIER.fullmatch(name) and count_distinct(column, enough=3) > 2  # two are a flag, such as has_phone
    if named or large:
        fix = f"drop it; for categories write c{int(found.first)}, or if it is a quantity, {'scale' if large else 'rename'} it"
        return f"has identifiers, such as {int(found.first)}", fix
    if COUNTER.fullmatch(name) and found.count == int(found.most) - int(found.least) + 1 and not _repeats(column):
        return "counts the rows", "drop it"
    return None


def _repeats(column: Chunks) -> bool:
    found = Distinct()
    for values in column:
        found.add(values)
    return found.repeated


def no_classes(values: pa.Array, all_listed: bool, rows: int) -> tuple[str, str] | None:
    """Why the different values of a target are no classes, and what to do; None if they are.

    Args:
        values: some of them.
        all_listed: whether these are all.
        rows: how many rows there are.
    """
    numbers = "write numbers with a decimal point to learn them as numbers"
    if is_text(values.type) and (found := cells.doubts(values, target=True)):
        return found
    count = len(values)
    if not 2 <= count <= MAX_CLASSES:
        shown = f"{count}" if all_listed else f"more than {count}"
        return f"has {shown} classes, but must have from 2 to {MAX_CLASSES}", f"choose another target; {numbers}"
    if pa.types.is_integer(values.type) and count > MAX_CATEGORIES:
        return f"has {count} different whole numbers", f"{numbers}, or for classes write c1, c2"
    if count > FEW and 2 * count > rows:
        return f"has {count} classes in {rows} rows", f"choose another target; {numbers}"
    return None
