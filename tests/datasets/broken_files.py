"""Files of tables as they may be broken, from a random generator, with what was in them."""

import bz2
import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[list[Any]]
WORDS = [
    "red",
    "green",
    "deep blue",
    "a, b",
    "x; y",
    'say "hi"',
    "tab\there",
    "two\nlines",
    "Zürich",
    "café",
    "naïve",
    "日本",
    "a|b",
    "it's",
]
NAMES = ["count", "price", "colour", "größe"]


@dataclass
class Case:
    """A file, what is in it, and what may become of it."""

    kind: str
    name: str
    data: bytes
    columns: list[str]
    rows: Rows
    may: str = "same"
    """``same``: it must be read as it is; ``refused``; ``either``; ``cut``: refused, or read as far as it goes."""
    has_line: bool = False
    """Whether a refusal names a line."""
    typed: bool = field(default=False)


@dataclass(frozen=True)
class Style:
    """How a csv file is written."""

    separator: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    quoting: Any = csv.QUOTE_MINIMAL
    end: str = "\n"


def table(chance: random.Random, words: list[str]) -> tuple[list[str], Rows]:
    columns = NAMES[:3] + ([NAMES[3]] if chance.random() < 0.3 else [])
    count = chance.choice([3, 8, 40, 40, 200])
    rows: Rows = [
        [row * 7 - 5, round(chance.uniform(-50, 5000), 2) + 0.0625, *(chance.choice(words) for _ in columns[2:])]
        for row in range(count)
    ]
    return columns, rows


def style(chance: random.Random) -> Style:
    separator = chance.choice([",", ",", ";", "\t", "|"])
    decimal = "," if separator == ";" and chance.random() < 0.6 else "."
    encoding = chance.choice(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252"])
    return Style(separator, decimal, encoding, chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), chance.choice(["\n", "\r\n"]))


def as_csv(columns: list[str], rows: Rows, style: Style) -> str:
    """The text of a csv file."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=style.separator, quoting=style.quoting, lineterminator=style.end)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([str(cell).replace(".", style.decimal) if isinstance(cell, float) else cell for cell in row])
    return text.getvalue()


def csv_case(chance: random.Random, kind: str, **changes: Any) -> tuple[Case, Style]:
    how = style(chance)
    how = Style(**{**vars(how), **changes})
    western = how.encoding == "cp1252"
    words = [word for word in WORDS if not western or word in ("red", "green", "a, b", "x; y", "Zürich", "café", "two\nlines")]
    columns, rows = table(chance, words)
    data = as_csv(columns, rows, how).encode(how.encoding)
    return Case(kind, f"{kind}.csv", data, columns, rows), how


# --- kinds ----------------------------------------------------------------------------------------------------


def whole(chance: random.Random) -> Case:
    return csv_case(chance, "whole")[0]


def compressed(chance: random.Random) -> Case:
    case, _ = csv_case(chance, "compressed")
    name, pack = chance.choice([("gz", gzip.compress), ("bz2", bz2.compress), ("zst", _zstd), ("csv", gzip.compress)])
    return Case(case.kind, f"t.csv.{name}" if name != "csv" else "t.csv", pack(case.data), case.columns, case.rows)


def _zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, "zstd", asbytes=True)
    return packed


def blank_lines(chance: random.Random) -> Case:
    case, how = csv_case(chance, "blank lines", encoding="utf-8", quoting=csv.QUOTE_MINIMAL)
    columns, rows = case.columns, [[cell for cell in row if cell != "two\nlines"] for row in case.rows]
    rows = [row for row in rows if len(row) == len(columns)] or [[1, 2.25, *["red"] * (len(columns) - 2)]]
    lines = as_csv(columns, rows, how).splitlines(keepends=True)
    at = chance.randrange(1, len(lines) + 1)
    return Case(case.kind, case.name, "".join([*lines[:at], how.end * 2, *lines[at:]]).encode(), columns, rows)


def cut(chance: random.Random) -> Case:
    case, _ = csv_case(chance, "cut")
    case.data, case.may = case.data[: chance.randrange(len(case.data))], "cut"
    return case


def junk(chance: random.Random) -> Case:
    case, _ = csv_case(chance, "junk")
    at = chance.randrange(len(case.data))
    case.data = case.data[:at] + b"\0\x07" + chance.randbytes(32) + b"\0" + case.data[at:]
    case.may = "refused"
    return case


def nul(chance: random.Random) -> Case:
    case, _ = csv_case(chance, "nul", encoding=chance.choice(["utf-8", "cp1252"]))
    at = chance.randrange(len(case.data))
    case.data, case.may, case.has_line = case.data[:at] + b"\0" + case.data[at:], "refused", True
    return case


def lost_quote(chance: random.Random) -> Case:
    case, how = csv_case(chance, "lost quote", quoting=csv.QUOTE_ALL, encoding="utf-8")
    text = case.data.decode()
    at = chance.choice([place for place, letter in enumerate(text) if letter == '"' and place > text.index(how.end)])
    case.data, case.may, case.has_line = (text[:at] + text[at + 1 :]).encode(), "refused", True
    return case


def one_row(change: Callable[[random.Random, list[Any], Style], str], kind: str) -> Callable[[random.Random], Case]:
    def make(chance: random.Random) -> Case:
        case, how = csv_case(chance, kind, encoding=chance.choice(["utf-8", "cp1252", "utf-16"]))
        at = chance.randrange(1, len(case.rows))
        before, after = as_csv(case.columns, case.rows[:at], how), as_csv(case.columns, case.rows[at + 1 :], how)
        after = after[len(as_csv(case.columns, [], how)) :]
        case.data = (before + change(chance, case.rows[at], how) + after).encode(how.encoding)
        case.may, case.has_line = "refused", True
        return case

    return make


def _line(cells: list[Any], how: Style) -> str:
    return as_csv(cells, [], how)


def more_cells(chance: random.Random, row: list[Any], how: Style) -> str:
    return _line([*row, *["more"] * chance.choice([1, 1, 5])], how)


def fewer_cells(chance: random.Random, row: list[Any], how: Style) -> str:
    return _line(row[: chance.randrange(1, len(row))], how)


def other_separator(chance: random.Random, row: list[Any], how: Style) -> str:
    other = chance.choice([sep for sep in ",;\t|" if sep != how.separator])
    return _line(["red" if isinstance(cell, str) else int(cell) for cell in row], Style(other, end=how.end))


def names_again(chance: random.Random, row: list[Any], how: Style) -> str:
    return _line(NAMES[: len(row)], how)


def footer(chance: random.Random, row: list[Any], how: Style) -> str:
    return f"Total: {chance.randrange(100)} rows{how.end}"


def other_encoding(chance: random.Random) -> Case:
    case, how = csv_case(chance, "other encoding", encoding="utf-8")
    text = _line([1, 2.5, "Zürich São", *case.rows[0][3:]], how)
    case.data, case.may, case.has_line = case.data + text.encode("cp1252"), "refused", True
    return case


def empty(chance: random.Random) -> Case:
    return Case(
        "empty",
        "t" + chance.choice([".csv", ".jsonl", ".parquet", ".json"]),
        chance.choice([b"", b"", b"\n \n"]),
        [],
        [],
        "refused",
    )


def names_only(chance: random.Random) -> Case:
    case, how = csv_case(chance, "names only", encoding="utf-8")
    case.rows, case.data = [], as_csv(case.columns, [], how).strip(how.end if chance.random() < 0.5 else "").encode()
    return case


def huge_cell(chance: random.Random) -> Case:
    case, how = csv_case(chance, "huge cell", encoding="utf-8")
    row = [1, 2.5, "x" * chance.choice([100_000, 5_000_000]), *case.rows[0][3:]]
    case.rows.append(row)
    case.data += _line([str(cell).replace(".", how.decimal) for cell in row], how).encode()
    case.may, case.has_line = "either", True
    return case


def json_case(chance: random.Random, kind: str) -> Case:
    columns, rows = table(chance, WORDS)
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    ascii_only = chance.random() < 0.5
    if chance.random() < 0.6:
        text = "\n".join(json.dumps(record, ensure_ascii=ascii_only) for record in records) + "\n"
        name = chance.choice(["t.jsonl", "t.ndjson", "t.json"])
    else:
        text, name = json.dumps(records, ensure_ascii=ascii_only, indent=chance.choice([None, 1])), "t.json"
    return Case(kind, name, text.encode(), columns, rows, typed=True)


def records(chance: random.Random) -> Case:
    case = json_case(chance, "records")
    if chance.random() < 0.3:
        case.data, case.name = gzip.compress(case.data), f"{case.name}.gz"
    return case


def broken_record(chance: random.Random) -> Case:
    case = json_case(chance, "broken record")
    text = case.data.decode()
    at = chance.choice([place for place, letter in enumerate(text) if letter in "{}"])
    case.data, case.may, case.has_line = (text[:at] + text[at + 1 :]).encode(), "refused", True
    return case


def cut_records(chance: random.Random) -> Case:
    case = json_case(chance, "cut records")
    case.data, case.may = case.data[: chance.randrange(1, len(case.data))], "cut"
    return case


def parquet(chance: random.Random) -> Case:
    columns, rows = table(chance, WORDS)
    out = io.BytesIO()
    pq.write_table(pa.table({name: [row[at] for row in rows] for at, name in enumerate(columns)}), out)
    return Case("parquet", chance.choice(["t.parquet", "t.pq", "t.csv", "t"]), out.getvalue(), columns, rows, typed=True)


def cut_parquet(chance: random.Random) -> Case:
    case = parquet(chance)
    case.kind, case.may, case.data = "cut parquet", "refused", case.data[: chance.randrange(len(case.data) - 1)]
    return case


def cut_gz(chance: random.Random) -> Case:
    case, _ = csv_case(chance, "cut gz")
    packed = gzip.compress(case.data)
    case.name, case.may, case.data = "t.csv.gz", "refused", packed[: chance.randrange(12, len(packed) - 1)]
    return case


def damaged_gz(chance: random.Random) -> Case:
    case, _ = csv_case(chance, "damaged gz")
    packed = bytearray(gzip.compress(case.data))
    packed[chance.randrange(10, len(packed))] ^= 1 << chance.randrange(8)
    case.name, case.may, case.data = "t.csv.gz", "either", bytes(packed)
    return case


def wrong_name(chance: random.Random) -> Case:
    case = chance.choice([whole, records])(chance)
    endings = [".parquet", ".csv"] if case.typed else [".parquet", ".json", ".jsonl"]
    return Case("wrong name", "t" + chance.choice(endings), case.data, case.columns, case.rows, "either", typed=case.typed)


def foreign(chance: random.Random) -> Case:
    magic = chance.choice(
        [b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"%PDF-1.5", b"<!DOCTYPE html>", b"SQLite format 3\0", b"ARROW1\0\0"]
    )
    name = chance.choice(["t.xlsx", "t.csv", "t.zip"])
    return Case("foreign", name, magic + chance.randbytes(300), [], [], "refused")


KINDS: list[Callable[[random.Random], Case]] = [
    whole, whole, compressed, blank_lines, cut, junk, nul, lost_quote,
    one_row(more_cells, "more cells"), one_row(fewer_cells, "fewer cells"), one_row(other_separator, "other separator"),
    one_row(names_again, "names again"), one_row(footer, "footer"), other_encoding, empty, names_only, huge_cell, records,
    broken_record, cut_records, parquet, cut_parquet, cut_gz, damaged_gz, wrong_name, foreign,
]  # fmt: skip
