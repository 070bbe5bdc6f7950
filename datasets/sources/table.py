"""A table in csv, JSON or Parquet files, one of whose columns is the target."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field as Key

from heliostat.config import Config, nearest
from heliostat.datasets.index import Field
from heliostat.datasets.signature import Signature
from heliostat.datasets.sources import Chunk, Problems, Source
from heliostat.datasets.sources.encoded import Encoded
from heliostat.datasets.sources.encoder import Encoder
from heliostat.datasets.sources.files import File
from heliostat.datasets.sources.formats.options import KEY, Read
from heliostat.datasets.sources.kinds import ColumnOptions
from heliostat.datasets.sources.parts import split_files
from heliostat.datasets.sources.reader import DETECTED, Reader
from heliostat.datasets.sources.targets import TargetType
from heliostat.datasets.splits import CONTENT, Split
from heliostat.errors import UserError

RULES = 4
"""How a table is read; counted up with each change, so that a new run does not take a dataset that was read otherwise."""
CHECKED = 8 << 20
"""Bytes of a table that is checked before anything starts; a larger one is when it is built."""


class Table(Source):
    """Each column becomes numbers in ``features`` or a code in ``categories``, as `Signature` says; the target becomes
    ``label`` (classes) or ``target`` (a number).

    The files are read twice in chunks: what the columns are, then their values, as arrays into a temporary file, so that
    memory does not depend on the number of rows.
    """

    name = "table"
    even = True

    class Options(Config):
        path: str = Key(
            description="the path of .csv, .jsonl or .parquet files: a file, a folder, or a pattern such as data/*.parquet"
        )
        target: str = Key(description="the name of the column to learn")
        read: Read = Key(DETECTED, description="how csv files are written, such as {separator: ;, decimal: ','}")
        drop: list[str] = Key([], description="columns to leave out, such as [id, date]")
        columns: dict[str, ColumnOptions] = Key({}, description="how columns are read, such as {age: {fill: median}}")
        without_label: Literal["refuse", "drop"] = Key(
            "refuse", description="what becomes of rows without a target: refuse the table, or drop them"
        )
        target_type: TargetType = Key(
            "auto", description="class or number; auto takes texts and few different whole numbers as classes"
        )
        split: Split = Key(CONTENT, description="how the rows are split, such as {by: time, column: date}")

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.split = options.split
        self._reader = Reader(options.path, options.read, files=self.files())
        self._reader.markers = {name: each.markers for name, each in options.columns.items()}
        self._target = self._check_names(self._reader.names)
        self._encoded: Encoded | None = None
        self._described: tuple[dict[str, Field], dict[str, Any], Signature] | None = None

    def chunks(self) -> Iterator[Chunk]:
        encoded, done = self._encode(), 0
        for chunk in encoded.chunks():
            self.progress(f"writing {self.options.path}", done, encoded.rows, "rows")
            yield chunk
            done += len(chunk.hashes)

    def preview(self) -> dict[str, Field] | None:
        return self.fields if self._reader.size <= CHECKED else None

    @property
    def fields(self) -> dict[str, Field]:  # type: ignore[override]
        """Known only after the files have been read."""
        return self._describe()[0]

    def meta(self) -> dict[str, Any]:
        return self._describe()[1]

    def signature(self) -> Signature | None:
        return self._describe()[2]

    def description(self) -> dict[str, Any]:
        options = self.options.model_dump(mode="json", exclude_defaults=True)
        read = {**self._reader.dialect, **options.pop("read", {})}
        return {"name": self.name, **options, **({"read": read} if read else {})}

    def files(self) -> list[File]:
        return split_files(self.options.path, self.split)

    def close(self) -> None:
        if self._encoded:
            self._encoded.spool.close()
        self._encoded = None

    def _identify(self) -> dict[str, Any]:
        return {**super()._identify(), "rules": RULES}

    def _check_names(self, names: list[str]) -> str:
        """The name of the target's column. Without it, or with a name twice, no column can be checked.

        Raises:
            UserError: as said.
        """
        path, target = self.options.path, str(self.options.target).strip()
        if target not in names:
            alone = f"its only column is {names[0]!r}: set {KEY}.separator (it may be blanks) if that is not one name"
            fix = alone if len(names) == 1 else nearest(target, [name for name in names if name])
            if self._reader.kind == "csv" and not all(names):
                fix += f"; if the names are in a line further below, set {KEY}.header to it"
            raise UserError(f"{path} has no column {target!r}", fix)
        if target in self.options.drop:
            raise UserError(f"dataset.options.drop lists {target!r}, which is the target", "remove it from drop")
        twice = Problems(path)
        for name, count in Counter(names).items():
            if count > 1:
                twice.add(f"{count} columns have the name {name!r}", "rename all but one")
        twice.refuse()
        return target

    def _describe(self) -> tuple[dict[str, Field], dict[str, Any], Signature]:
        if self._described is None:
            found = self._encode()
            self._described = found.fields, found.meta, found.signature
        return self._described

    def _encode(self) -> Encoded:
        """The encoded table; the files are read if they have not been, or if it was freed."""
        if self._encoded is None:
            self._encoded = Encoder(self._reader, self._target, self.options, self.progress, self.tasks).encode()
        return self._encoded
