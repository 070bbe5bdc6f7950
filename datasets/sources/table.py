"""A table in CSV or Parquet files, one of whose columns is the target."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import Field as Key

from heliostat.config import Config, nearest
from heliostat.datasets.index import Field
from heliostat.datasets.sources import Chunk, Problems, Source
from heliostat.datasets.sources.encoder import Encoded, Encoder
from heliostat.datasets.sources.files import File, table_files
from heliostat.datasets.sources.reader import Reader
from heliostat.errors import UserError

RULES = 3
"""How a table is read; counted up with each change, so that a new run does not take a dataset that was read otherwise."""
CHECKED = 8 << 20
"""Bytes of a table that is checked before anything starts; a larger one is when it is built."""


class Table(Source):
    """Numbers become features unchanged, texts are one-hot encoded; the target becomes ``label``.

    Numbers that 32 bits cannot tell apart, such as timestamps, are stored as the difference from their median, which
    ``meta["offsets"]`` has by the name of the feature.

    A target of floating-point numbers becomes the column ``target`` instead, for your own regression tasks, unless it is 0.0
    and 1.0 only.

    The files are read twice in chunks: what the columns are, then their values, as numbers into a temporary file. The rest is
    computed from that, so that memory does not depend on the number of rows.
    """

    name = "table"
    even = True

    class Options(Config):
        path: str = Key(description="the path of .csv or .parquet files: a file, a folder, or a pattern such as data/*.parquet")
        target: str = Key(description="the name of the column to learn")
        drop: list[str] = Key([], description="columns to leave out, such as [id, date]")

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._reader = Reader(options.path)
        self._target = self._check_names(self._reader.names)
        self._encoded: Encoded | None = None
        self._described: tuple[dict[str, Field], dict[str, Any]] | None = None

    def chunks(self) -> Iterator[Chunk]:
        encoded, done = self._encode(), 0
        for chunk in encoded.chunks():
            self.progress(f"encoding {self.options.path}", done, len(encoded.target.column), "rows")
            yield chunk
            done += len(chunk.keys)

    def preview(self) -> dict[str, Field] | None:
        return self.fields if self._reader.size <= CHECKED else None

    @property
    def fields(self) -> dict[str, Field]:  # type: ignore[override]
        """Known only after the files have been read."""
        return self._describe()[0]

    def meta(self) -> dict[str, Any]:
        return self._describe()[1]

    def description(self) -> dict[str, Any]:
        return {"name": self.name, **self.options.model_dump(mode="json", exclude_defaults=True)}

    def files(self) -> list[File]:
        return table_files(self.options.path)

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
            other = re.search(r"[;\t|]", names[0]) if len(names) == 1 else None
            if other:
                raise UserError(f"{path} has {other[0]!r} between its columns", "save it with commas")
            raise UserError(f"{path} has no column {target!r}", nearest(target, names))
        if target in self.options.drop:
            raise UserError(f"dataset.options.drop lists {target!r}, which is the target", "remove it from drop")
        twice = Problems(path)
        for name, count in Counter(names).items():
            if count > 1:
                twice.add(f"{count} columns have the name {name!r}", "rename all but one")
        twice.refuse()
        return target

    def _describe(self) -> tuple[dict[str, Field], dict[str, Any]]:
        if self._described is None:
            found = self._encode()
            self._described = found.fields, found.meta
        return self._described

    def _encode(self) -> Encoded:
        """The encoded table; the files are read if they have not been, or if it was freed."""
        if self._encoded is None:
            self._encoded = Encoder(self._reader, self._target, self.options.drop, self.progress).encode()
        return self._encoded
