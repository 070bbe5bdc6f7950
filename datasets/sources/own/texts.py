"""Texts of a source of the user's own as sequences of tokens; they are kept in a temporary file."""

import struct
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import Field as Key

from heliostat.datasets.index import SPLITS, Field, SplitName
from heliostat.datasets.sources import Chunk, Problems, hashes_of
from heliostat.datasets.sources.own.rows import table_of
from heliostat.datasets.sources.own.values import TEXT, named
from heliostat.datasets.sources.spool import temporary_space
from heliostat.datasets.sources.text import key_of
from heliostat.datasets.sources.tokens import TokenOptions, Tokens
from heliostat.errors import UserError
from heliostat.wording import counted

HEAD = struct.Struct("<qb")
"""The bytes of a text, and the place of its split, -1 if the source says none."""
SEQUENCES, SHOWN = 1024, 10
"""Sequences of a chunk, at least; problems that a message lists."""


class TextOptions(TokenOptions):
    """What of the samples becomes tokens, and how."""

    text: str = Key(TEXT, description="the value or column of the samples that is the text; others are left out")


class Texts:
    """Texts that become `Tokens`.

    Args:
        place: the source, for messages.
        options: how.
    """

    def __init__(self, place: str, options: TextOptions) -> None:
        self._column, self._tokens = options.text, Tokens(options)
        self._problems, self._count = Problems(place, most=SHOWN), 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self.bytes, self._are_learnt = 0, False
        """The bytes that are kept."""

    def add(self, place: str, value: Any, split: SplitName | None) -> int:
        """Take the texts of the next sample, or of a part of a table; returns a hash of them."""
        try:
            texts = self._texts(value)
        except UserError as error:
            self._problems.add(f"{place} {error.what}", error.fix)
            self._count += 1
            if self._count > SHOWN:
                self._problems.refuse()
            return 0
        for text in texts:
            data = text.encode()
            with temporary_space():
                self._file.write(HEAD.pack(len(data), -1 if split is None else SPLITS.index(split)) + data)
            self.bytes += len(data)
        return _hash(texts)

    def hash(self, value: Any) -> int:
        """The hash that `add` has returned for this sample."""
        return _hash(self._texts(value))

    def finish(self) -> None:
        """All samples have been added.

        Raises:
            UserError: some were refused.
        """
        self._problems.refuse()

    @property
    def fields(self) -> dict[str, Field]:
        return self._tokens.fields

    def meta(self) -> dict[str, Any]:
        return self._tokens.meta("texts")

    def chunks(self) -> Iterator[Chunk]:
        """The sequences of the texts, of which ``by`` has the place of the split, or -1, if the source says none."""
        if self._tokens.learns and not self._are_learnt:
            self._tokens.learn(text for text, _ in self._read())
            self._are_learnt = True
        self._tokens.begin()
        parts, hashes, splits = list[Any](), list[Any](), list[Any]()
        for text, split in self._read():
            parts.append(self._tokens.sequences(text))
            hashes.append(np.repeat(hashes_of([key_of(text)]), len(parts[-1])))
            splits.append(np.full(len(parts[-1]), split, np.int8))
            if sum(map(len, parts)) >= SEQUENCES or len(parts) >= SEQUENCES:
                yield Chunk(np.concatenate(hashes), {"tokens": np.concatenate(parts)}, by=np.concatenate(splits))
                parts, hashes, splits = [], [], []
        if parts:
            yield Chunk(np.concatenate(hashes), {"tokens": np.concatenate(parts)}, by=np.concatenate(splits))
        self._tokens.check("texts")

    def close(self) -> None:
        self._file.close()

    def _read(self) -> Iterator[tuple[str, int]]:
        at = 0
        while True:
            self._file.seek(at)
            if not (head := self._file.read(HEAD.size)):
                return
            size, split = HEAD.unpack(head)
            text = self._file.read(size).decode()
            at += HEAD.size + size
            yield text, split

    def _texts(self, value: Any) -> list[str]:
        """The texts of a sample or of a part of a table."""
        if (table := table_of(value)) is not None:
            return self._of_table(table)
        values = named(value)
        if self._column not in values:
            raise UserError(f"has no {self._column!r}", self._fix([*values]))
        text = values[self._column]
        if not isinstance(text, str):
            kind = "no value" if text is None else f"a {type(text).__name__}"
            raise UserError(f"has {kind} in place of the text {self._column!r}", "leave it out, or convert it with str")
        return [text]

    def _of_table(self, table: pa.Table) -> list[str]:
        if self._column not in table.column_names:
            raise UserError(f"has no column {self._column!r}", self._fix(table.column_names))
        column = table[self._column]
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise UserError(f"has {self._column!r} of type {column.type}", "choose a column of texts with dataset.options.text")
        if column.null_count:
            raise UserError(f"has {counted(column.null_count, 'empty value')} of {self._column!r}", "leave these rows out")
        found: list[str] = pc.cast(column, pa.string()).to_pylist()
        return found

    def _fix(self, names: list[str]) -> str:
        return f"set dataset.options.text to the name of the text, of {', '.join(names)}"


def _hash(texts: list[str]) -> int:
    total = xxhash.xxh3_64()
    for text in texts:
        total.update(f"{len(text)} {text}".encode())
    return total.intdigest()
