"""Csv files in the dialects that people have, and JSON records: each is read as it is meant, or refused with what to set."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heliostat.cli import main
from heliostat.config import validate
from heliostat.datasets import build
from heliostat.datasets.sources import open_source
from heliostat.datasets.sources.formats import delimited, parquet, records, streams
from heliostat.datasets.sources.formats.options import Read
from heliostat.datasets.sources.reader import Reader
from heliostat.errors import UserError
from tests.datasets.rows import read_rows


def rows(folder: Path, data: str | bytes, name: str = "t.csv", **options: Any) -> dict[str, list[Any]]:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    found: dict[str, list[Any]] = {}
    for table in read_rows(str(folder / name), validate(options, Read)):
        for column in table.column_names:
            found.setdefault(column, []).extend(table[column].to_pylist())
    return found


def refusal(folder: Path, data: str | bytes, name: str = "t.csv", **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        rows(folder, data, name, **options)
    return str(caught.value)


DIALECTS: dict[str, tuple[str | bytes, dict[str, list[str]]]] = {
    "commas": ("a,b\n1,x\n2,y\n", {"a": ["1", "2"], "b": ["x", "y"]}),
    "semicolons and decimal commas": ("a;b\n1.234,5;2 €\n0,25;1.400 €\n", {"a": ["1234.5", "0.25"], "b": ["2 €", "1400 €"]}),
    "a decimal comma in texts too": ("a;b\n1,5;v 1,5\n2,5;other\n", {"a": ["1.5", "2.5"], "b": ["v 1,5", "other"]}),
    "decimal commas in quotes": ('a,b\n"1,5",x\n"2,25",y\n', {"a": ["1.5", "2.25"], "b": ["x", "y"]}),
    "thousands in quotes": ('a,b\n"1,234",x\n"2,345",y\n', {"a": ["1,234", "2,345"], "b": ["x", "y"]}),
    "a decimal sign by column": ("a;b\n1,5;1.5\n2,25;2.5\n", {"a": ["1,5", "2,25"], "b": ["1.5", "2.5"]}),
    "tabs": ("a\tb\n1\tx, y\n2\tz\n", {"a": ["1", "2"], "b": ["x, y", "z"]}),
    "bars": ("a|b\n1|x\n2|y\n", {"a": ["1", "2"], "b": ["x", "y"]}),
    "Excel's hint": ("sep=;\na;b\n1;x\n", {"a": ["1"], "b": ["x"]}),
    "a line break in a cell": ('a,b\n1,"x\ny"\n2,"z ""q"""\n', {"a": ["1", "2"], "b": ["x\ny", 'z "q"']}),
    "single quotes": ("a,b\n1,'x, y'\n2,'z'\n", {"a": ["1", "2"], "b": ["x, y", "z"]}),
    "inches": ('a,b\n1,5" disk\n2,3"\n', {"a": ["1", "2"], "b": ['5" disk', '3"']}),
    "blanks after separators": ('a, b\n1, "x, y"\n2, z\n', {"a": ["1", "2"], "b": ["x, y", "z"]}),
    "comments above": ("# from a sensor\n# a, b\na,b\n1,x\n", {"a": ["1"], "b": ["x"]}),
    "names after a sign of comments": ("#a\tb\n1\tx\n", {"#a": ["1"], "b": ["x"]}),
    "years as names": ("a,2019,2020\nx,1,2\n", {"a": ["x"], "2019": ["1"], "2020": ["2"]}),
    "returns": ("a,b\r1,x\r2,y\r", {"a": ["1", "2"], "b": ["x", "y"]}),
    "UTF-8 with a mark": ("a,b\n1,é\n".encode("utf-8-sig"), {"a": ["1"], "b": ["é"]}),
    "UTF-16": ("a;b\n1;é\n".encode("utf-16"), {"a": ["1"], "b": ["é"]}),
    "UTF-16 without a mark": ("a;b\n1;é\n".encode("utf-16-le"), {"a": ["1"], "b": ["é"]}),
    "Windows-1252": ("a;b\n5 €;Zürich\n7 €;café\n".encode("cp1252"), {"a": ["5 €", "7 €"], "b": ["Zürich", "café"]}),
    "gzip under any name": (gzip.compress(b"a,b\n1,x\n"), {"a": ["1"], "b": ["x"]}),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_clear_dialect_is_found(tmp_path: Path, dialect: str) -> None:
    data, wanted = DIALECTS[dialect]
    assert rows(tmp_path, data) == wanted


UNCLEAR: dict[str, tuple[str | bytes, str, dict[str, Any], dict[str, list[Any]]]] = {
    "1,234": ("a;b\n1,234;x\n", "which may be 1234 or 1.234", {"decimal": ","}, {"a": ["1.234"], "b": ["x"]}),
    "1,234 once more": ("a;b\n1,234;x\n", "read.thousands", {"thousands": ","}, {"a": ["1234"], "b": ["x"]}),
    "1.234": ("a;b\n1.234;x\n23;y\n", "which may be 1234 or 1.234", {"thousands": "."}, {"a": ["1234", "23"], "b": ["x", "y"]}),
    "1.234 once more": ("a\tb\n1.234\tx\n", "read.decimal", {"decimal": "."}, {"a": ["1.234"], "b": ["x"]}),
    "blanks": (' 5.1  4\t"a b" \n14.25 3 c\n', "separator (it may be blanks)",
        {"separator": "blanks", "names": ["a", "b", "c"]}, {"a": ["5.1", "14.25"], "b": ["4", "3"], "c": ["a b", "c"]}),
    "blanks and names": ("a  b\n1 x\n", "separator: blanks", {"separator": "blanks"}, {"a": ["1"], "b": ["x"]}),
    "separators at the ends": ("a,b\n1,2,\n3,4,\n", "separator at the end of the lines",
        {"header": 1, "names": ["a", "b", "c"]}, {"a": ["1", "3"], "b": ["2", "4"], "c": ["", ""]}),
    "two separators": ("a,b;c\n1,2;3\n", "',' or ';'", {"separator": ";"}, {"a,b": ["1.2"], "c": ["3"]}),
    "no names": ("5.1,x\n4.9,y\n", "has no names of columns", {"header": 0}, {"c1": ["5.1", "4.9"], "c2": ["x", "y"]}),
    "names given": ("5.1,x\n4.9,y\n", "read.names", {"names": ["a", "b"]}, {"a": ["5.1", "4.9"], "b": ["x", "y"]}),
    "numbers as names": ("7,x\n4.9,y\n", "header: 1 if", {"header": 1}, {"7": ["4.9"], "x": ["y"]}),
    "lines above": ("Report\n\na,b\n1,2\n3,4\n", "line of the names", {"header": 3}, {"a": ["1", "3"], "b": ["2", "4"]}),
    "comments between": ("a,b\n1,2\n#x\n3,4\n", "line 3 has 1 cell", {"comment": "#"}, {"a": ["1", "3"], "b": ["2", "4"]}),
    "row names of R": ("a,b\nr,1,2\ns,3,4\n", "a name for the first", {"header": 1, "names": ["r", "a", "b"]},
        {"r": ["r", "s"], "a": ["1", "3"], "b": ["2", "4"]}),
    "bare quotes": ('a,b\n1,"x"\n2,5"\n', "line 3 has a quote in a cell", {"quote": "none"},
        {"a": ["1", "2"], "b": ['"x"', '5"']}),
    "Portuguese": ("a,b\n1,São\n".encode("cp1252"), "line 2 is not UTF-8", {"encoding": "latin-1"}, {"a": ["1"], "b": ["São"]}),
    "colons": ("a:b\n1:x:y\n", "read.separator", {"separator": ":", "names": ["a", "b", "c"], "header": 1},
        {"a": ["1"], "b": ["x"], "c": ["y"]}),
    "markers": ("a;b\n;\nnone;-9\n", "", {"missing": ["none", "-9"]}, {"a": ["", None], "b": ["", None]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNCLEAR)
def test_what_is_not_clear_is_refused_with_the_option_that_says_it(tmp_path: Path, kind: str) -> None:
    data, says, options, wanted = UNCLEAR[kind]
    if says and kind != "colons":  # which are a single column
        assert says in refusal(tmp_path, data)
    assert rows(tmp_path, data, **options) == wanted


def test_options_that_cannot_be_are_refused_with_their_keys(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,x\n2,y\n")
    options = {"path": str(tmp_path / "t.csv"), "target": "b", "read": {"separator": "ab", "encoding": "utf-9", "decimal": "x"}}
    with pytest.raises(UserError) as caught:
        open_source("table", options)
    for text in ("read.separator: is 'ab'", "read.encoding: is 'utf-9'", "read.decimal is 'x'"):
        assert text in str(caught.value)
    assert "has 2 columns, but dataset.options.read.names has 1" in refusal(tmp_path, "a,b\n1,x\n", names=["a"])
    assert "read has separator, but" in refusal(tmp_path, '{"a": 1}', "t.jsonl", separator=";")


def test_all_problems_of_all_files_are_in_one_message_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "d" / "2.csv").write_text("a,b\n" + 9 * "1,2\n" + '3\n\n4,"5\n6",7\n8,"9"x\n')
    (tmp_path / "d" / "3.csv").write_text('a,b\n1,2\na,b\n4,"x\n')
    with pytest.raises(UserError) as caught:
        list(read_rows(str(tmp_path / "d")))
    message = str(caught.value)
    for text in (
        "has 5 problems", "2.csv: line 11 has 1 cell, but there are 2 columns", "2.csv: line 13 has 3 cells",
        "2.csv: line 15 has text after a quote",
        "3.csv: line 3 repeats the names", "3.csv: line 4 has a quote that does not end",
    ):  # fmt: skip
        assert text in message


def test_the_dialect_is_part_of_what_a_dataset_is_known_by(tmp_path: Path) -> None:
    lines = "".join(f"{row / 4};{'ab'[row % 2]}\n".replace(".", ",") for row in range(99))
    (tmp_path / "t.csv").write_bytes(("größe;art\n" + lines).encode("cp1252"))
    source = open_source("table", {"path": str(tmp_path / "t.csv"), "target": "art"})
    assert source.description()["read"] == {"separator": ";", "encoding": "cp1252", "decimal": ","}
    dataset = build(source, str(tmp_path / "out"))
    assert dataset.index.meta["feature_names"] == ["größe"]
    features = dataset.take("train", np.arange(dataset.index.rows("train")))["features"]
    assert set(features[:, 0]) <= {row / 4 for row in range(99)}


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_quotes_and_names_again_are_seen_wherever_a_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(delimited, "PIECE", block)
    read = streams.Bytes.read
    monkeypatch.setattr(streams.Bytes, "read", lambda self, size: read(self, min(size, block)))
    good = "name,b\n" + "".join(f'{row},"x, ""{row}""\ny"\n' for row in range(50))
    assert rows(tmp_path, good)["b"] == [f'x, "{row}"\ny' for row in range(50)]
    assert "line 4 has text after a quote" in refusal(tmp_path, good.replace('""1""', '"1""', 1))
    assert "line 102 repeats the names" in refusal(tmp_path, good + "name,b\n")
    assert "line 102 has a quote that does not end" in refusal(tmp_path, good + '7,"')


# --- JSON -----------------------------------------------------------------------------------------------------

RECORDS = [
    {"n": 1, "x": 2, "s": "007", "v": [1, 2.5]},
    {"n": 2**63, "x": 2.5, "s": None},
    {"n": 3, "x": None, "s": "é\n", "v": [3, 4]},
]
COLUMNS = {"n": [1, 2**63, 3], "x": [2.0, 2.5, None], "s": ["007", None, "é\n"], "v": [[1.0, 2.5], None, [3.0, 4.0]]}


@pytest.mark.parametrize("piece", [5, 1 << 20])
@pytest.mark.parametrize("written", ["lines", "array", "indented", "compressed"])
def test_json_records_keep_their_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, piece: int) -> None:
    monkeypatch.setattr(records, "PIECE", piece)
    data = json.dumps(RECORDS, indent=2 if written == "indented" else None).encode()
    if written in ("lines", "compressed"):
        data = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS).encode()
    name = {"lines": "t.ndjson", "compressed": "t.jsonl.gz"}.get(written, "t.json")
    assert rows(tmp_path, gzip.compress(data) if written == "compressed" else data, name) == COLUMNS


def test_what_is_no_record_is_listed_with_its_line(tmp_path: Path) -> None:
    lines = ['{"a": 1}', '{"a": 1,}', '{"a": 1, "a": 2}', "", "5", '{"a": "\\ud800"}', '{"a": NaN}']
    message = refusal(tmp_path, "\n".join(lines), "t.jsonl")
    for text in ("4 problems", "line 2 is not a JSON record", "line 3 is not a JSON record: it has two values of 'a'",
                 "line 5 has whole numbers in place of a record", "line 6 has text that is not UTF-8"):  # fmt: skip
        assert text in message
    assert rows(tmp_path, '{"a": NaN}\n{"a": 1.5}\n', "t.jsonl") == {"a": [None, 1.5]}
    assert "line 3 is not JSON" in refusal(tmp_path, '[{"a": 1},\n{"a":\n', "t.json")
    assert "line 1 is not JSON: it begins with 'a,b" in refusal(tmp_path, "a,b\n1,2\n", "t.json")


def test_columns_of_several_kinds_and_nested_ones_are_refused_unless_they_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"a": 1, "b": {"c": 1}, "d": 1}\n{"a": 2, "d": "x"}\n')
    reader = Reader(str(tmp_path / "t.jsonl"))
    with pytest.raises(UserError) as caught:
        list(reader.batches(reader.names))
    assert "column 'b' has objects, such as in line 1" in str(caught.value)
    assert "column 'd' has whole numbers (line 1) and texts (line 2)" in str(caught.value)
    assert [batch["a"].to_pylist() for batch in reader.batches(["a"])] == [[1, 2]]


# --- other files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("t.xlsx", b"PK\x03\x04rest", "is a zip archive or an Excel file"),
        ("t.csv", b"<!DOCTYPE html><html>404", "is a web page"),
        ("t.csv", b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        ("t.csv", b'{"a": 1}\n', "name it .jsonl"),
        ("t.parquet", b"a,b\n1,2\n", "is not a Parquet file"),
        ("t.csv.gz", gzip.compress(b"a,b\n" + bytes(range(48, 58)) * 999, mtime=0)[:-9], "is cut off or damaged"),
        ("t.csv", b"", "is empty"),
    ],
)
def test_files_that_are_no_tables_are_refused_with_what_to_do(
    tmp_path: Path, name: str, data: bytes, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(data)
    options = ["--set", f"path={tmp_path / name}", "--set", "target=b"]
    assert main(["dataset", "build", "table", str(tmp_path / "out"), *options]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_raw_rows_come_in_chunks_from_several_files_of_any_format(tmp_path: Path) -> None:
    for number in range(2):
        pq.write_table(pa.table({"a": [number], "b": ["x"]}), tmp_path / f"{number}.parquet")
    assert [table.to_pylist() for table in read_rows(str(tmp_path))] == [[{"a": 0, "b": "x"}], [{"a": 1, "b": "x"}]]
    (tmp_path / "twice.csv").write_text("a,a,b\n1,2,3\n")
    with pytest.raises(UserError, match="2 columns have the name 'a'"):
        open_source("table", {"path": str(tmp_path / "twice.csv"), "target": "b"})
    with pytest.raises(UserError, match=r"the path nowhere\.csv does not exist"):
        list(read_rows("nowhere.csv"))


CELLS = ("abc", "x" * 70, '"a ""b"" c"', '"line\nbreak, and more"', '"\n\n"', "1.5", "")


@pytest.mark.parametrize("kind", ["csv", "windows.csv", "parquet", "jsonl"])
def test_sections_of_a_large_file_have_the_rows_of_the_whole_in_its_chunks(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (delimited, "BLOCK", 2000), (delimited, "BLOCK_OF_A_COLUMN", 1), (delimited, "FIRST", 500),
        (parquet, "SECTION", 9000), (records, "PIECE", 1000),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    draw = random.Random(1)
    rows = [[str(number), draw.choice(CELLS), draw.choice(CELLS)] for number in range(2000)]
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        table = pa.table({name: [row[at] for row in rows] for at, name in enumerate("abc")})
        pq.write_table(table, path, row_group_size=70)
    elif kind == "jsonl":
        path.write_text("".join(f"{json.dumps(dict(zip('abc', row, strict=True)))}\n" for row in rows))
    else:
        end = "\r\n" if kind == "windows.csv" else "\n"
        path.write_text("".join(",".join(row) + end for row in [["a", "b", "c"], *rows]), newline="")
    reader = Reader(str(path))
    places = reader.sections(9000)
    whole = [pa.table(batch) for batch in reader.batches(reader.names)]
    parts = [pa.table(batch) for place in places for batch in Reader(str(path)).batches(reader.names, places=[place])]
    assert len(places) > 3
    assert pa.concat_tables(parts).equals(pa.concat_tables(whole))
    if kind in ("csv", "parquet"):
        assert [part.num_rows for part in parts] == [part.num_rows for part in whole]


def test_a_broken_row_in_a_section_is_refused_with_its_line_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BLOCK", 2000), ("BLOCK_OF_A_COLUMN", 1), ("FIRST", 500)):
        monkeypatch.setattr(delimited, name, value)
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,2\n" * 5000 + "1,2,3\n" + "1,2\n" * 5000)
    reader = Reader(str(path))
    broken = []
    for place in reader.sections(5000):
        try:
            list(reader.batches(["a"], places=[place]))
        except UserError as error:
            broken.append(str(error))
    assert len(broken) == 1
    assert "line 5002 has 3 cells" in broken[0]
