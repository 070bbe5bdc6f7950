"""Tables of random values in the styles of the world: what is learnt is what they stand for.

More of them are part of make soak.
"""

import bz2
import csv
import gzip
import io
import json
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.datasets import Dataset, build
from heliostat.datasets.index import SPLITS
from heliostat.datasets.sources import open_source
from heliostat.errors import UserError

FILES = int(os.environ.get("FUZZ_FILES", "100")) // 4
SEED = int(os.environ.get("FUZZ_SEED", "0"))
ROWS = 60
Rows = list[dict[str, Any]]
TRUTHS = (("yes", "no"), ("1", "0"), ("t", "f"), ("Y", "N"), ("TRUE", "FALSE"), ("on", "off"))
MISSING = ("", "NA", "?", "null", "#N/A", "-")
DATES = ("%Y-%m-%d", "%d.%m.%Y", "%d.%m.%y", "%d %b %Y", "%b %d, %Y", "%Y/%m/%d", "%Y%m%dT%H:%M", "%Y-%m-%dT%H:%M:%SZ")


def values(chance: random.Random) -> Rows:
    """Rows of each type, with gaps."""
    start = datetime(1999, 12, 25, tzinfo=UTC)
    rows: Rows = [
        {
            "x": at / 8 + 0.0625,
            "amount": round(chance.uniform(-2e6, 2e6), 2) + 0.5,
            "count": chance.randrange(10_000_000),
            "rate": round(chance.uniform(0, 100), 1),
            "price": round(chance.uniform(1, 99_999), 2),
            "ok": chance.random() < 0.5,
            "day": start + timedelta(days=chance.randrange(5000)),
            "shop": chance.choice(["red", "a, b", "x; y", "Zürich", 'say "hi"', "tab\there"]),
            "y": chance.choice("ab"),
        }
        for at in range(ROWS)
    ]
    for row in rows:
        for name in ("amount", "count", "rate", "price", "ok", "day", "shop"):
            if chance.random() < 0.05:
                row[name] = None
    return rows


# --- styles ---------------------------------------------------------------------------------------------------


def number(value: float, decimal: str, thousands: str, digits: int) -> str:
    text = f"{value:,.{digits}f}" if thousands else f"{value:.{digits}f}"
    signs: dict[str, str | int | None] = {",": thousands, ".": decimal}
    return text.translate(str.maketrans(signs))


def cells(chance: random.Random) -> Callable[[dict[str, Any]], dict[str, str]]:
    """How the values of a csv file are written: all in one way."""
    decimal = chance.choice(".,")
    thousands = chance.choice(["", "", "." if decimal == "," else ",", " ", "'"])
    gap, day = chance.choice(MISSING), chance.choice(DATES)
    yes, no = chance.choice(TRUTHS)
    money = chance.choice(["${}", "{} €", "EUR {}", "{}"])
    per_cent = chance.choice(["{}%", "{} %", "{}"])
    whole = thousands if chance.random() < 0.5 else ""

    def write(row: dict[str, Any]) -> dict[str, str]:
        written: dict[str, Callable[[Any], str]] = {
            "x": lambda value: number(value, decimal, "", 4),
            "amount": lambda value: number(value, decimal, thousands, 2),
            "count": lambda value: number(value, decimal, whole, 0),
            "rate": lambda value: per_cent.format(number(value, decimal, "", 1)),
            "price": lambda value: money.format(number(value, decimal, thousands, 2)),
            "ok": lambda value: yes if value else no,
            "day": lambda value: value.strftime(day),
        }
        return {name: gap if row[name] is None else written.get(name, str)(row[name]) for name in row}

    return write


def as_csv(chance: random.Random, folder: Path, rows: Rows) -> Path:
    """One file or two, each with its own order of columns, separator, quotes and encoding."""
    write, parts = cells(chance), [rows]
    if chance.random() < 0.4:
        parts = [rows[: ROWS // 2], rows[ROWS // 2 :]]
    for at, part in enumerate(parts):
        names = chance.sample(list(rows[0]), len(rows[0]))
        text = io.StringIO()
        quoting: Any = chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        table = csv.DictWriter(
            text, names, delimiter=chance.choice(",;\t|"), quoting=quoting, lineterminator=chance.choice(["\n", "\r\n"])
        )
        table.writeheader()
        table.writerows(map(write, part))
        data = text.getvalue().encode(chance.choice(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))
        packers: list[tuple[str, Callable[[bytes], Any]]] = [
            ("", bytes), ("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress),
            (".zst", lambda data: pa.compress(data, "zstd", asbytes=True)),
        ]  # fmt: skip
        ending, pack = chance.choice(packers)
        (folder / f"{at}.csv{ending}").write_bytes(pack(data))
    return folder


def as_json(chance: random.Random, folder: Path, rows: Rows) -> Path:
    """Records in which a missing value is null, or left out."""
    form, is_left_out = chance.choice(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"]), chance.random() < 0.5
    records = [
        {
            name: value.strftime(form) if isinstance(value, datetime) else value
            for name, value in row.items()
            if value is not None or not is_left_out
        }
        for row in rows
    ]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder / "t.jsonl"


def as_parquet(chance: random.Random, folder: Path, rows: Rows) -> Path:
    """Files in folders, with other types of the same values in each."""
    zone = chance.choice([None, "UTC", "America/New_York"])
    for at in range(2):
        part = rows[at::2]
        columns = {name: [row[name] for row in part] for name in chance.sample(list(rows[0]), len(rows[0]))}
        table = pa.table(columns | {"day": pa.array(columns["day"], pa.timestamp(chance.choice(["ms", "us", "ns"]), zone))})
        decimals = [None if value is None else Decimal(str(value)) for value in columns["price"]]
        changes = {
            "price": pa.array(decimals, pa.decimal128(12, 2)),
            "shop": table["shop"].combine_chunks().dictionary_encode(),
            "count": pa.array(columns["count"], chance.choice([pa.int32(), pa.int64(), pa.uint32()])),
            "y": chance.choice([table["y"].combine_chunks().dictionary_encode(), table["y"].cast(pa.large_string())]),
        }
        for name, column in changes.items():
            if chance.random() < 0.7:
                table = table.set_column(table.column_names.index(name), name, column)
        (folder / f"part={at}").mkdir()
        pq.write_table(table, folder / f"part={at}" / "t.parquet", row_group_size=chance.choice([7, 1000]))
    return folder


# --- what is learnt -------------------------------------------------------------------------------------------


def learnt(dataset: Dataset) -> Rows:
    """The rows as the dataset has them, in the order of x."""
    signature = dataset.index.signature
    assert signature
    rows: Rows = []
    for split in SPLITS:
        taken = dataset.take(split, np.arange(dataset.index.rows(split)))
        for at in range(dataset.index.rows(split)):
            row: dict[str, Any] = dict(zip(signature.feature_names, taken["features"][at].tolist(), strict=True))
            codes = zip(signature.categorical, taken["categories"][at].tolist(), strict=True)
            row |= {column.name: None if code < 0 else column.categories[code] for column, code in codes}
            rows.append(row | {"y": dataset.index.classes[taken["label"][at]]})
    return sorted(rows, key=lambda row: float(row["x"]))


def check(found: Rows, rows: Rows) -> None:
    assert len(found) == len(rows)
    for got, row in zip(found, rows, strict=True):
        for name, value in row.items():
            if isinstance(value, datetime):
                assert [got[f"day.{part}"] for part in ("year", "month", "day")] == [value.year, value.month, value.day]
            elif value is None:
                there = got["day.year"] if name == "day" else got[name]
                assert there is None or np.isnan(there), name
            elif isinstance(value, str):
                assert got[name] == value
            else:
                assert abs(got[name] - value) <= 1e-6 * abs(value), name


def test_values_in_the_styles_of_the_world_are_learnt_as_they_are_meant(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    for at in range(FILES):
        rows = values(chance)
        folder = tmp_path / str(at)
        folder.mkdir()
        path = chance.choice([as_csv, as_csv, as_csv, as_json, as_parquet])(chance, folder, rows)
        options = {"path": str(path), "target": "y", "split": {"by": "stratified"}}
        try:
            check(learnt(build(open_source("table", options), str(tmp_path / f"{at}-built"))), rows)
        except (AssertionError, UserError) as error:
            raise AssertionError(f"table {at} of seed {SEED}, {path}: {error}") from None
