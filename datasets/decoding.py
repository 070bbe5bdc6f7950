"""Encoded rows of a table as texts, for people: what the dataset keeps of the values that were read."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.datasets.signature import CATEGORIES, FEATURES, MISSING, Column, Signature

NOT_KEPT = "(not kept)"
"""Of hashed texts, and of categories that are not listed."""


def decode(signature: Signature, columns: Mapping[str, npt.NDArray[Any]]) -> list[dict[str, str]]:
    """The values of encoded rows by column, in the order of the table; an empty text is a missing value.

    Numbers have up to 7 digits, as they are kept in 32 bits; dates are to the minute.
    """
    first = np.cumsum([0, *(column.width for column in signature.numeric)]).tolist()
    places = {column.name: at for column, at in zip(signature.numeric, first, strict=False)}
    codes = {column.name: at for at, column in enumerate(signature.categorical)}
    rows = len(next(iter(columns.values())))
    return [
        {
            column.name: _category(column, int(columns[CATEGORIES][row, codes[column.name]]))
            if column.kind == "category"
            else _value(column, columns[FEATURES][row, places[column.name] :][: column.width].astype(float).tolist())
            for column in signature.columns
        }
        for row in range(rows)
    ]


def _category(column: Column, code: int) -> str:
    if code == MISSING:
        return ""
    return column.categories[code] if 0 <= code < len(column.categories) else NOT_KEPT


def _value(column: Column, values: list[float]) -> str:
    if column.kind == "text":
        return NOT_KEPT
    if all(np.isnan(values)):
        return ""
    match column.kind:
        case "boolean":
            return "true" if values[0] else "false"
        case "date":
            return _date(dict(zip(column.parts, values, strict=True)))
        case "list":
            return f"[{', '.join(f'{value:g}' for value in values)}]"
    number = values[0] + column.offset
    text = f"{number:.0f}" if column.whole else f"{number:.7g}".replace(".", column.decimal)
    return f"{text} {column.unit}" if column.unit else text


def _date(parts: Mapping[str, float]) -> str:
    minutes = int(60 * parts.get("hour", 0) + 0.01)
    time = f"{minutes // 60:02d}:{minutes % 60:02d}"
    if "year" not in parts:
        return time
    day = "-".join(f"{parts[part]:02.0f}" for part in ("year", "month", "day"))
    return f"{day} {time}" if "hour" in parts else day
