"""By what images are split that are not split by their pixels: folders, or a column of a csv file."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.datasets.index import SPLITS
from heliostat.datasets.sources import Problems
from heliostat.datasets.sources.reader import Reader
from heliostat.datasets.splits import WORDS, Split
from heliostat.datasets.values.missing import missing, trimmed
from heliostat.datasets.values.words import hashes
from heliostat.errors import UserError

FILE, FOLDER = "file", "folder"
"""The column of the csv file with the images, and what stands for the folder of an image in that of its class."""
MODES = ("content", "stratified", "group", "column")
SHOWN = 10


def check_split(split: Split, table: str | None) -> None:
    """Raise a UserError for a split that images do not have."""
    if split.by not in MODES:
        also = "; folders train, validation and test in path are splits" if split.by == "files" else ""
        raise UserError(f"dataset.options.split has by: {split.by}, which is not for images", f"use {', '.join(MODES)}{also}")
    if split.learn:
        raise UserError("dataset.options.split.learn is true, but images have no columns to learn from", "leave it out")
    by_table = split.by in ("group", "column") and split.column != FOLDER
    if by_table and table is None:
        fix = f"set dataset.options.table to a csv file with the columns {FILE} and {split.column}"
        if split.by == "group":
            fix += f", or column: {FOLDER}, for folders in those of the classes"
        raise UserError(f"dataset.options.split has column: {split.column}, but images have no columns", fix)
    if table is not None and not by_table:
        raise UserError("dataset.options.table is of use only with split by: group or column", "leave it out")
    if split.by == "column" and split.column == FOLDER:
        raise UserError(
            f"dataset.options.split has by: column and column: {FOLDER}", "name folders in path train, validation and test"
        )


def places(names: list[str], split: Split, table: str | None) -> npt.NDArray[np.uint64] | npt.NDArray[np.int64] | None:
    """What `Chunk.by` has of images, by their paths below that of the source; None if they are split by their pixels.

    Raises:
        UserError: the table lacks images or values, or has several of one image.
    """
    if split.by not in ("group", "column"):
        return None
    values = [name.split("/")[1] for name in names] if split.column == FOLDER else _of_table(names, split, str(table))
    if split.by == "group":
        return hashes(pa.array(values, pa.string()))
    return np.array([SPLITS.index(split.words[value.lower()]) for value in values], np.int64)


def _of_table(names: list[str], split: Split, table: str) -> list[str]:
    column, problems = str(split.column), Problems(table, most=SHOWN)
    reader = Reader(table, key="dataset.options.table")
    for name in {FILE, column} - {*reader.names}:
        problems.add(f"there is no column {name!r}", f"name the columns {FILE} and {column}")
    problems.refuse()
    found: dict[str, str] = {}
    for batch in reader.batches([FILE, column]):
        texts = [trimmed(pc.cast(batch[name], pa.string())) for name in (FILE, column)]
        texts[1] = pc.if_else(missing(texts[1]), pa.scalar(None, pa.string()), texts[1])
        for file, value in zip(*(each.to_pylist() for each in texts), strict=True):
            if value is None:
                continue
            if found.setdefault(file, value) != value:
                problems.add(f"{file} has both {found[file]!r} and {value!r}", "leave one of them")
    for name in (name for name in names if name not in found):
        problems.add(f"{name} has no value of {column!r}", f"add its line, with its path below dataset.options.path as {FILE}")
    for value in {*found.values()} if split.by == "column" else ():
        if value.lower() not in split.words:
            fix = f"write {', '.join(WORDS)}, or map it with dataset.options.split.values: {{{value}: train}}"
            problems.add(f"column {column!r} has {value!r}, which is no split", fix)
    problems.refuse()
    return [found[name] for name in names]
