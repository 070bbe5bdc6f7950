"""How a table writes that a value is missing."""

import re
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from heliostat.datasets.values.numbers import is_plain

MARKERS = (
    "", "na", "n/a", "n.a.", "#n/a", "#n/a n/a", "#na", "<na>", "nan", "-nan", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
    "nat", "null", "nil", "(null)", "\\n", "missing", "?", "??", "???", "-", "--", "---", "\u2013", "\u2014", ".", "..", "...",
    "#div/0!", "#null!", "#num!", "#ref!", "#value!", "#name?",
)  # fmt: skip
"""How programs write that a value is missing, in lower case: pandas' and Arrow's lists, UCI's ?, databases, spreadsheets."""
PYTHON_NONE = "None"
"""Python's; in lower case it is a category of its own in many tables (no treatment, no fence)."""


def is_text(kind: pa.DataType) -> bool:
    """Whether a type of Arrow is that of texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def trimmed(texts: pa.Array) -> pa.Array:
    """Texts without white space at their ends; null as the empty text."""
    return pc.utf8_trim_whitespace(pc.fill_null(texts, ""))


def gaps(values: pa.Array, markers: Collection[str] = ()) -> pa.Array:
    """Which of some values, trimmed texts or typed ones, are missing; so are those that ``markers`` name."""
    if is_text(values.type):
        return missing(values, markers)
    gone = pc.is_null(values, nan_is_null=True)
    if markers and (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        marked = pa.array([float(marker) for marker in markers if is_plain(marker)], pa.float64())
        gone = pc.or_(gone, pc.fill_null(pc.is_in(pc.cast(values, pa.float64(), safe=False), value_set=marked), False))
    return gone


def missing(texts: pa.Array, more: Collection[str] = ()) -> pa.Array:
    """Which of some trimmed texts say that a value is missing; so do ``more``."""
    found = pc.is_in(pc.utf8_lower(texts), value_set=pa.array(MARKERS, texts.type))
    found = pc.or_(found, pc.is_in(texts, value_set=pa.array([PYTHON_NONE, *more], texts.type)))
    for whole in filter(re.compile(r"-?\d+").fullmatch, more):  # -999 is also written as -999.0
        found = pc.or_(found, pc.match_substring_regex(texts, rf"^{whole}\.0*$"))
    return found
