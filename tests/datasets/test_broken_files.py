"""Files as the world has them: each is read as it is meant, or refused with its place; more of them are part of make soak."""

import os
import random
import re
from pathlib import Path
from typing import Any

from heliostat.errors import UserError
from tests.datasets.broken_files import KINDS, Case
from tests.datasets.rows import read_rows

FILES = int(os.environ.get("FUZZ_FILES", "100"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))


def read(path: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for table in read_rows(str(path)):
        for name in table.column_names:
            found.setdefault(name, []).extend(table[name].to_pylist())
    return found


def wanted(case: Case) -> list[list[Any]]:
    """The rows as they are read: from csv files as texts."""
    return case.rows if case.typed else [[str(cell) for cell in row] for row in case.rows]


def is_part(case: Case, found: list[list[Any]]) -> bool:
    """Whether rows are the first ones; of the last one, the last cell may be cut off."""
    rows = wanted(case)
    if not found:
        return True
    *whole, last = found
    *cells, end = rows[len(whole)]
    return whole == rows[: len(whole)] and last[:-1] == cells and str(end).startswith(str(last[-1]))


def rows_of(found: dict[str, list[Any]]) -> list[list[Any]]:
    return [list(row) for row in zip(*found.values(), strict=True)]


def check(case: Case, path: Path) -> str:
    """What became of it."""
    refusal = ""
    try:
        found = read(path)
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert case.may != "same", f"it is whole, but refused: {refusal}"
        assert path.name in refusal
        assert not case.has_line or re.search(r"\bline \d+", refusal), f"no line: {refusal}"
        return "refused"
    assert case.may != "refused", f"it was read: {rows_of(found)[-3:]}"
    if case.may == "cut":
        assert is_part(case, rows_of(found)), "it was read otherwise"
        return "read"
    assert not found or list(found) == case.columns
    assert rows_of(found) == wanted(case)
    return "read"


def test_broken_files_are_read_right_or_refused_with_their_place(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    became: dict[str, int] = {"read": 0, "refused": 0}
    for number in range(FILES):
        case = KINDS[number % len(KINDS)](chance)
        path = tmp_path / f"{number}-{case.name}"
        path.write_bytes(case.data)
        try:
            became[check(case, path)] += 1
        except BaseException:
            print(f"file {number} of seed {SEED}, {case.kind}, {len(case.data)} bytes: {case.data[:3000]!r}")
            raise
        path.unlink()
    assert min(became.values()) > FILES / 5, became
