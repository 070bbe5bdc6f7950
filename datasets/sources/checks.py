"""Whether the values of a column are quantities, or classes: what else a table's numbers and names may be."""

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heliostat.datasets.sources import cells
from heliostat.datasets.sources.narrow import is_whole, narrowed

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


def no_quantity(name: str, values: npt.NDArray[Any]) -> tuple[str, str] | None:
    """Why the numbers of a column are no quantities, and what to do; None if they may be some."""
    wide = values.astype(np.float64)
    for mark in MISSING_NUMBERS:
        if (count := int((wide == mark).sum())) > 1 and not ((wide < 0) & (wide != mark)).any():
            return f"has {count} values of {mark}, which stands for a missing one", "fill them or drop their rows"
    if not is_whole(values):
        return None
    large = abs(int(values.max())) > 2**53 and not narrowed(values)[1]
    named = IDENTIFIER.fullmatch(name) and len(np.unique(values)) > 2  # two are a flag, such as has_phone
    if named or large:
        fix = f"drop it; for categories write c{int(values[0])}, or if it is a quantity, {'scale' if large else 'rename'} it"
        return f"has identifiers, such as {int(values[0])}", fix
    if COUNTER.fullmatch(name) and len(np.unique(values)) == len(values) == int(values.max()) - int(values.min()) + 1:
        return "counts the rows", "drop it"
    return None


def no_classes(column: pa.ChunkedArray, count: int) -> tuple[str, str] | None:
    """Why the values of a target are no classes, and what to do; None if they are."""
    numbers = "write numbers with a decimal point to learn them as numbers"
    if is_text(column.type) and (found := cells.doubts(column, target=True)):
        return found
    if not 2 <= count <= MAX_CLASSES:
        return f"has {count} classes, but must have from 2 to {MAX_CLASSES}", f"choose another target; {numbers}"
    if pa.types.is_integer(column.type) and count > MAX_CATEGORIES:
        return f"has {count} different whole numbers", f"{numbers}, or for classes write c1, c2"
    if count > FEW and 2 * count > len(column):
        return f"has {count} classes in {len(column)} rows", f"choose another target; {numbers}"
    return None
