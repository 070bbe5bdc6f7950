"""Raw rows, as people have them, as a table with the columns of a signature."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from heliostat.config import nearest
from heliostat.datasets.signature import Column, Signature
from heliostat.datasets.sources.formats.numbers import Plain
from heliostat.datasets.values.missing import is_text, trimmed
from heliostat.errors import UserError, collected, combined
from heliostat.wording import counted

EXACT = 2**53
"""Up to which whole numbers are the same as floating-point numbers."""
SHOWN = 10
"""Problems that a message lists."""


def parse_row(text: str, signature: Signature) -> dict[str, Any]:
    """A JSON object, or a JSON list with a value for each column in the signature's order, as a row.

    Raises:
        UserError: it is neither.
    """
    names = [column.name for column in signature.columns]
    try:
        row = json.loads(text, object_pairs_hook=_unique)
    except ValueError as error:
        raise UserError(
            f"input {_short(text)} is not a JSON row: {error}", f"give an object such as {_example(names)}"
        ) from None
    if isinstance(row, list) and len(row) == len(names):
        return dict(zip(names, row, strict=True))
    if not isinstance(row, dict):
        what = f"a list of {counted(len(row), 'value')}" if isinstance(row, list) else f"a {type(row).__name__}"
        raise UserError(
            f"input {_short(text)} is {what}, but a row has {counted(len(names), 'column')}",
            f"give an object such as {_example(names)}",
        )
    return row


def table_of(rows: Any, signature: Signature, read: Mapping[str, Any] | None = None) -> pa.Table:
    """Rows as a table with the columns of the signature, and perhaps others.

    Args:
        rows: a mapping of columns to values or a sequence of those, in which a column that is left out is missing; or a
            DataFrame of pandas or polars or an Arrow table, which has all columns.
        signature: of the dataset of the run.
        read: how its csv files are written (`Index.source`): texts of numbers are taken as they have them.

    Raises:
        UserError: rows have columns that there are none, or a table lacks some; the message lists all.
    """
    if isinstance(rows, Mapping):
        rows = [rows]
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        return _of_mappings(rows, signature, read)
    if isinstance(rows, str | bytes | Sequence):
        raise UserError("the rows are no mappings of columns to values", "give a list of dictionaries, a DataFrame or a table")
    try:
        table = rows if isinstance(rows, pa.Table) else pa.table(rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError) as error:
        raise UserError(f"the rows cannot be read as a table: {error}", "give each column values of one type") from None
    check_columns(table.column_names, signature)
    return _plain(table, signature, read)


def any_table(rows: Any) -> pa.Table:
    """Rows as a table, for a task that reads them itself: a mapping, a sequence of those, a DataFrame or an Arrow table.

    Raises:
        UserError: they cannot be read as a table.
    """
    try:
        if isinstance(rows, Mapping):
            rows = [rows]
        if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
            return pa.Table.from_pylist([*rows])
        return rows if isinstance(rows, pa.Table) else pa.table(rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError) as error:
        raise UserError(f"the rows cannot be read as a table: {error}", "give a list of dictionaries or a DataFrame") from None


def _plain(table: pa.Table, signature: Signature, read: Mapping[str, Any] | None) -> pa.Table:
    """The table, its numbers as texts with a decimal point, as the dataset's reader wrote those of the files."""
    for column in signature.columns:
        name, plain = column.name_in(table.column_names), plain_of(column, read)
        if name and plain and is_text(table[name].type):
            texts = trimmed(pc.cast(table[name].combine_chunks(), pa.string()))
            table = table.set_column(table.column_names.index(name), name, plain.write(texts))
    return table


def plain_of(column: Column, read: Mapping[str, Any] | None) -> Plain | None:
    """What writes the numbers of a column in the plain way; None if the files of the dataset have them so."""
    decimal, thousands = (read or {}).get("decimal", "."), (read or {}).get("thousands")
    return Plain(decimal, thousands) if column.is_written_plainly and (decimal == "," or thousands) else None


def check_columns(names: list[str], signature: Signature, place: str = "the table") -> None:
    """Refuse a table that lacks columns of the signature, or has one twice.

    Raises:
        UserError: so it is; the message has the nearest name for each.
    """
    wanted = [found for column in signature.columns if (found := column.name_in(names))]
    others = [name for name in names if name not in {*wanted, signature.target.name, *signature.left_out}]
    twice = [(f"{place} has the column {name!r} twice", "rename one") for name in wanted if names.count(name) > 1]
    lacking = [
        (f"{place} lacks the column {name!r}", nearest(name, others) if others else "add it; its values may be missing")
        for name in lacking_in(names, signature)
    ]
    if problems := [UserError(*problem) for problem in (*twice, *lacking)]:
        raise combined(problems, place, SHOWN)


def lacking_in(names: Collection[str], signature: Signature) -> list[str]:
    """The columns of the signature that are not among some names."""
    return [column.name for column in signature.columns if column.name_in(names) is None]


def _of_mappings(rows: Sequence[Mapping[str, Any]], signature: Signature, read: Mapping[str, Any] | None) -> pa.Table:
    names = [column.name for column in signature.columns]
    of_columns = {*names, *(column.source for column in signature.columns if column.source)}
    known = {*of_columns, signature.target.name, *signature.left_out}
    problems = []
    for number, row in enumerate(rows, 1):
        where = f"row {number}: " if len(rows) > 1 else ""
        problems += [(f"{where}{key!r} is not a column", nearest(str(key), names)) for key in row if key not in known]
        if not (row.keys() - known or row.keys() & of_columns):
            problems.append((f"{where or 'the row '}has none of the columns", f"give them, such as {_example(names)}"))
        problems += [
            (f"{where}{key!r} is {_short(json.dumps(value, default=str))}, but no column has objects", "give a plain value")
            for key, value in row.items()
            if isinstance(value, Mapping)
        ]
    if problems:
        errors = [UserError(*problem) for problem in problems]
        plain = [{key: None if isinstance(value, Mapping) else value for key, value in row.items()} for row in rows]
        with collected(errors):
            signature.encode(_columns(plain, signature, read))
        raise combined(errors, "the input", SHOWN)
    return _columns(rows, signature, read)


def _columns(rows: Sequence[Mapping[str, Any]], signature: Signature, read: Mapping[str, Any] | None) -> pa.Table:
    values = {
        column.name: [None if (name := column.name_in(row)) is None else row[name] for row in rows]
        for column in signature.columns
    }
    arrays = {}
    for column in signature.columns:
        if plain := plain_of(column, read):
            values[column.name] = _written(values[column.name], plain)
        arrays[column.name] = array_of(values[column.name], column.decimal)
    return pa.table(arrays)


def _written(values: list[Any], plain: Plain) -> list[Any]:
    """Values, of which the texts have a decimal point."""
    places = [place for place, value in enumerate(values) if isinstance(value, str)]
    texts = plain.write(trimmed(pa.array([values[place] for place in places], pa.string())))
    values = list(values)
    for place, text in zip(places, texts.to_pylist(), strict=True):
        values[place] = text
    return values


def array_of(values: list[Any], decimal: str = ".") -> pa.Array:
    """The values with their type, or as texts if they have several: the other rows must not change what a value means."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float} and all(abs(value) <= EXACT for value in values if type(value) is int):
        values, kinds = [value if value is None else float(value) for value in values], {float}
    if len(kinds) == 1:
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            pass  # whole numbers beyond 64 bits, or lists of several types
    return pa.array([None if value is None else _text(value, decimal) for value in values], pa.string())


def _text(value: Any, decimal: str) -> str:
    if isinstance(value, bool | list | tuple):
        return json.dumps(value, default=str)
    return str(value).replace(".", decimal) if isinstance(value, float) else str(value)


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(repr(name) for name in names if names.count(name) > 1)} twice")
    return row


def _example(names: Sequence[str]) -> str:
    shown = ", ".join(f'"{name}": ...' for name in names[:5])
    return f"{{{shown}{', ...' if len(names) > 5 else ''}}}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
