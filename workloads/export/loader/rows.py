"""Raw rows of a table as the arrays that the model takes, by the columns of ``signature.json``."""

import datetime
import json
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .dates import of_texts, of_values, parts
from .xxh3 import xxh3

MISSING, UNKNOWN = -1, -2
"""Codes of a missing value, and of a category that the signature does not list."""
LARGEST = float(np.finfo(np.float32).max)
PLAIN = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
WHOLE = re.compile(r"-?[0-9]+")
TRUE, FALSE = ("true", "yes", "y", "t", "on", "1"), ("false", "no", "n", "f", "off", "0")
DATES = (datetime.date, datetime.datetime, datetime.time)
KNOWN = (str, bool, int, float, list, tuple, *DATES)
SHOWN = 3
Array = npt.NDArray[Any]
Column = Mapping[str, Any]


class BadValues(Exception):
    """Values are not of their column's kind."""

    def __init__(self, values: Sequence[Any]) -> None:
        super().__init__(values)
        self.values = values


def encode(signature: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """The arrays ``features`` (rows, numbers) float32 and ``categories`` (rows, columns) int32, each if the model takes it.

    Args:
        signature: the content of ``signature.json``.
        rows: each has values by column: numbers, texts, booleans, dates, lists; one that is left out or None is missing.

    Raises:
        ValueError: rows have unknown columns, or values that are not of their column's kind; it lists all of them.
    """
    columns, problems = signature["columns"], _unknown(signature, rows)
    arrays: dict[str, Array] = {}
    for column in columns:
        values = [row.get(column["source"] or column["name"], row.get(column["name"])) for row in rows]
        try:
            arrays[column["name"]] = encode_column(column, values, signature["missing"])
        except BadValues as error:
            shown = ", ".join(dict.fromkeys(map(repr, error.values[:SHOWN])))
            problems.append(f"column {column['name']!r} has {shown}, but each value must be {column['wanted']}")
    if problems:
        raise ValueError("; ".join(problems))
    numbers = [arrays[column["name"]] for column in columns if column["kind"] != "category"]
    codes = [arrays[column["name"]] for column in columns if column["kind"] == "category"]
    return {
        **({"features": np.concatenate(numbers, axis=1)} if numbers else {}),
        **({"categories": np.stack(codes, axis=1)} if codes else {}),
    }


def _unknown(signature: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    of_columns = {name for column in signature["columns"] for name in (column["name"], column["source"]) if name}
    known = {*of_columns, *signature["other_columns"]}
    unknown = [
        f"row {number}: {key!r} is not a column" for number, row in enumerate(rows, 1) for key in row if key not in known
    ]
    empty = [f"row {number} has none of the columns" for number, row in enumerate(rows, 1) if not row.keys() & of_columns]
    return unknown + empty


def encode_column(column: Column, values: Sequence[Any], missing: Collection[str]) -> Array:
    """The values of a column: float32 (rows, width), NaN is missing; or of a category int32 (rows,).

    Args:
        column: its entry in the signature.
        values: one a row.
        missing: the texts, in lower case, that stand for a missing value.

    Raises:
        BadValues: some are not of the column's kind.
    """
    kind, values = one_type(column, [each.item() if isinstance(each, np.generic) else each for each in values])
    if kind is str:
        values = ["" if each is None else each.strip() for each in values]
    there = np.array([not _is_missing(kind, each, column["markers"], missing) for each in values], bool)
    is_code = column["kind"] == "category"
    shape = (len(values),) if is_code else (len(values), column["width"])
    result = np.full(shape, MISSING if is_code else np.nan, np.int32 if is_code else np.float32)
    present = [each for each, is_there in zip(values, there, strict=True) if is_there]
    if present:
        result[there] = KINDS[column["kind"]](column, kind, present)
    if column["fill"] == "refuse" and not is_code and not there.all():
        raise BadValues([None])
    return result


def one_type(column: Column, values: Sequence[Any]) -> tuple[type, Sequence[Any]]:
    """The values with their type, or as texts if they have several: other rows must not change what a value means."""
    if write := column["written"]:
        values = [_plainly(each.strip(), write) if isinstance(each, str) else each for each in values]
    kinds = {list if isinstance(each, tuple) else type(each) for each in values if each is not None}
    if strange := [each for each in values if each is not None and not isinstance(each, KNOWN)]:
        raise BadValues(strange)
    if kinds == {int, float}:
        return float, [each if each is None else float(each) for each in values]
    if len(kinds) == 1 and _fits(kind := kinds.pop(), values):
        return kind, values
    return str, [each if each is None else _text(each, column["decimal"]) for each in values]


def _fits(kind: type, values: Sequence[Any]) -> bool:
    """Whether values have a type of Arrow: whole numbers of 64 bits, lists of one type."""
    if kind is int:
        return all(each is None or -(2**63) <= each < 2**63 for each in values)
    if kind is list:
        inner = [each for value in values if value is not None for each in value if each is not None]
        kinds = {type(each) for each in inner}
        return (len(kinds) <= 1 or kinds == {int, float}) and _fits(int, [each for each in inner if type(each) is int])
    return True


def _text(value: Any, decimal: str) -> str:
    if isinstance(value, bool | list | tuple):
        return json.dumps(value, default=str)
    return str(value).replace(".", decimal) if isinstance(value, float) else str(value)


def _plainly(text: str, write: Column) -> str:
    """A number with a decimal point and without separated thousands; another text as it is."""
    found = re.match(write["pattern"], text, re.ASCII)
    if not found:
        return text
    number = re.sub(write["group"], "", found["number"])
    return found["before"] + (number.replace(",", ".") if write["decimal"] == "," else number) + found["after"]


def _is_missing(kind: type, value: Any, markers: Sequence[str], missing: Collection[str]) -> bool:
    if kind is str:
        zeros = any(re.fullmatch(rf"{each}\.0*", value) for each in markers if WHOLE.fullmatch(each))
        return zeros or _lower(value) in missing or value in ("None", *markers)
    if value is None or (kind is float and math.isnan(value)):
        return True
    return kind in (int, float) and float(value) in map(_float, markers)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _lower(text: str) -> str:
    """Each letter by itself, as Arrow does it: no final sigma, and i for a dotted capital I."""
    return text.lower() if text.isascii() else "".join(each.lower()[0] for each in text)


# --- the kinds ------------------------------------------------------------------------------------------------


def _number(column: Column, kind: type, values: Sequence[Any]) -> Array:
    array: Array
    if kind is str:
        array = _numbers_of(column, values)
    elif kind in (int, float, bool):
        array = np.array(values, {int: "int64", float: "float64", bool: "int8"}[kind])
    else:
        raise BadValues(values)
    wide = array.astype(np.float64)
    _check(np.abs(wide) <= LARGEST, values)
    return _narrowed(array, column["offset"])[:, None]


def _numbers_of(column: Column, texts: Sequence[str]) -> Array:
    """Numbers as texts: all plain ones, else each with the unit and the separators that the column has."""
    if column["decimal"] == ".":
        if column["whole"] and _are_whole(texts):
            return np.array([int(text) for text in texts], np.int64)
        if all(map(PLAIN.fullmatch, texts)):
            return np.array([float(text) for text in texts])
    found = [re.match(column["pattern"], text, re.ASCII) for text in texts]
    units = ("", column["unit"] or "")
    good = [
        match is not None
        and match["before"] in units
        and match["after"] in units
        and text.startswith("(") == text.endswith(")")
        for match, text in zip(found, texts, strict=True)
    ]
    _check(good, texts)
    return np.array([_value(match, column["decimal"]) for match in found if match])


def _are_whole(texts: Sequence[str]) -> bool:
    return all(WHOLE.fullmatch(text) and -(2**63) <= int(text) < 2**63 for text in texts)


def _value(match: re.Match[str], decimal: str) -> float:
    number = match["number"]
    for separator in "'_ \u2019\u00a0\u202f" + ("," if decimal == "." else "."):
        number = number.replace(separator, "")
    value = float(number.replace(",", "."))
    minus = match["open"] == "(" or any(match[name] in ("-", "\u2212", "\u2013") for name in ("sign", "sign2", "sign3"))
    return -value if minus else value


@np.errstate(over="ignore")
def _narrowed(values: Array, offset: float) -> Array:
    """Numbers less an offset, in 32 bits; of whole numbers exactly, if 64 bits hold it."""
    if not offset:
        return values.astype(np.float32)
    if values.dtype.kind == "i" and offset.is_integer() and -(2**63) <= offset < 2**64:
        return (values.astype(np.int64) - np.array(int(offset) % 2**64, np.uint64).astype(np.int64)).astype(np.float32)
    return (values.astype(np.float64) - offset).astype(np.float32)


def _boolean(column: Column, kind: type, values: Sequence[Any]) -> Array:
    if kind is str:
        values = [{**dict.fromkeys(TRUE, 1), **dict.fromkeys(FALSE, 0)}.get(_lower(each), each) for each in values]
    _check([isinstance(each, bool | int | float) and each in (0, 1) for each in values], values)
    return np.array(values, np.float32)[:, None]


def _category(column: Column, kind: type, values: Sequence[Any]) -> Array:
    texts = category_texts(column["type"], kind, values)
    if buckets := column["buckets"]:
        known = {text: xxh3(text.encode()) % buckets for text in {*texts}}
    else:
        known = {text: code for code, text in enumerate(column["categories"])}
    return np.array([known.get(text, UNKNOWN) for text in texts], np.int32)


def category_texts(type_of_column: str, kind: type, values: Sequence[Any]) -> list[str]:
    """Values as the texts of their categories; in a column of numbers 1, 1.0 and "1" are the same, as True and "true"."""
    if type_of_column == "bool":
        names = {"false": "False", "0": "False", "true": "True", "1": "True"}
        return [names.get(_lower(text), text) for text in _cast(kind, values)]
    if not type_of_column.startswith(("int", "uint", "float", "double", "halffloat")):
        return _cast(kind, values)
    if kind is str:
        if _are_whole(values):
            return [str(int(each)) for each in values]
        if not all(_is_double(each) for each in values):
            return [category_texts(type_of_column, str, [each])[0] if _is_double(each) else each for each in values]
        kind, values = float, [float(each) for each in values]
    if kind is not float:
        return _cast(kind, values)
    return [
        str(int(each)) if math.isfinite(each) and each == math.floor(each) and abs(each) < 2**53 else _decimal(each)
        for each in values
    ]


def _is_double(text: str) -> bool:
    return bool(PLAIN.fullmatch(text) or re.fullmatch(r"[+-]?inf(?:inity)?", text, re.IGNORECASE))


def _cast(kind: type, values: Sequence[Any]) -> list[str]:
    """Values as Arrow writes them."""
    if kind is list:
        raise BadValues(values)
    write: dict[type, Callable[[Any], str]] = {
        bool: lambda each: str(each).lower(),
        float: _decimal,
        datetime.datetime: _stamp,
        datetime.time: lambda each: each.isoformat("microseconds"),
    }
    return [write.get(kind, str)(each) for each in values]


def _decimal(value: float) -> str:
    """The shortest digits of a number, with an exponent below 1e-6 and from 1e10 on."""
    if not math.isfinite(value):
        return str(value)
    digits, exponent = f"{value!r}e0".split("e")[:2]
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    whole, _, fraction = digits.partition(".")
    fraction = fraction.rstrip("0")
    place = int(exponent) + len(whole)
    shown = (whole + fraction).lstrip("0")
    place -= len(whole + fraction) - len(shown)
    shown = shown.rstrip("0")
    if not shown:
        return f"{sign}0"
    if not -6 < place <= 10:
        rest = f".{shown[1:]}" if shown[1:] else ""
        return f"{sign}{shown[0]}{rest}e{place - 1:+d}".replace("e-0", "e-")
    if place <= 0:
        return f"{sign}0.{'0' * -place}{shown}"
    rest = f".{shown[place:]}" if shown[place:] else ""
    return f"{sign}{shown[:place].ljust(place, '0')}{rest}"


def _stamp(value: datetime.datetime) -> str:
    zone = value.strftime("%z")
    return value.replace(tzinfo=None).isoformat(" ", "microseconds") + ("Z" if zone == "+0000" else zone)


def _date(column: Column, kind: type, values: Sequence[Any]) -> Array:
    is_time = column["parts"] == ["hour"]
    if kind in (str, int):
        seconds, good = of_texts([str(each) for each in values], column["patterns"], is_time)
        _check(good, values)
    elif kind in DATES and (kind is datetime.time) == is_time:
        seconds = of_values(values)
    else:
        raise BadValues(values)
    if is_time:
        return (seconds / 3600).astype(np.float32)[:, None]
    split = parts(seconds, timed="hour" in column["parts"])
    return np.column_stack([split, _narrowed(seconds, column["offset"])]).astype(np.float32)


def _list(column: Column, kind: type, values: Sequence[Any]) -> Array:
    found = [_json_list(each) if kind is str else _typed_list(each) if kind is list else None for each in values]
    _check([each is not None and len(each) == column["width"] for each in found], values)
    array = np.array(found, np.float64).astype(np.float32)
    _check(~np.isinf(array).any(axis=1), values)
    return array


def _json_list(text: str) -> list[float] | None:
    try:
        found = json.loads(text)
        return [math.nan if each is None else float(each) for each in found] if isinstance(found, list) else None
    except (ValueError, TypeError):
        return None


def _typed_list(values: Sequence[Any]) -> list[float] | None:
    if any(
        not isinstance(each, bool | int | float | None) and not (isinstance(each, str) and _is_double(each)) for each in values
    ):
        return None
    return [math.nan if each is None else float(each) for each in values]


def _text_of(column: Column, kind: type, values: Sequence[Any]) -> Array:
    """The words of each text: sums of signs by place, divided by the root of the number of words."""
    result = np.zeros((len(values), column["width"]))
    for row, text in enumerate(_cast(kind, values)):
        words = "".join(each if unicodedata.category(each)[0] in "LN" else " " for each in _lower(text)).split(" ")
        words = [word for word in words if word] or [""]
        for found in map(xxh3, (word.encode() for word in words)):
            result[row, found % column["width"]] += -1 if found >> 63 else 1
        result[row] /= np.sqrt(len(words))
    return result.astype(np.float32)


def _check(good: Any, values: Sequence[Any]) -> None:
    if not all(good):
        raise BadValues([value for value, is_good in zip(values, good, strict=True) if not is_good])


KINDS: dict[str, Callable[[Column, type, Sequence[Any]], Array]] = {
    "number": _number, "boolean": _boolean, "category": _category, "date": _date, "list": _list, "text": _text_of,
}  # fmt: skip
