"""The source of what a class or function of the user's own yields."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from heliostat import own_code
from heliostat.config import digest, validate
from heliostat.datasets import sources
from heliostat.datasets.index import Field, SplitName
from heliostat.datasets.signature import LABEL, TARGET, Signature
from heliostat.datasets.sources import Chunk, TooLarge
from heliostat.datasets.sources.files import File, files_below
from heliostat.datasets.sources.own import KEY, Named, Source
from heliostat.datasets.sources.own.calls import calling, length_of, parts_of, values_of
from heliostat.datasets.sources.own.rows import Rows, table_of
from heliostat.datasets.sources.own.samples import Samples
from heliostat.datasets.sources.own.texts import TextOptions, Texts
from heliostat.datasets.sources.own.values import is_row, named
from heliostat.datasets.sources.spool import temporary_space
from heliostat.datasets.sources.table import RULES, Table
from heliostat.datasets.splits import CONTENT, Split
from heliostat.errors import UserError

TRIED = 16
"""Samples that are looked at before anything starts."""


@dataclass(frozen=True)
class _Description:
    """What is known of the samples once they have been read, and also when they have been freed."""

    fields: dict[str, Field]
    meta: Callable[[], dict[str, Any]]
    """That of texts is known once their chunks have been read."""
    signature: Signature | None
    split: Split


class Own(sources.Source):
    """Samples of arrays, which are stored as they are, or rows of a table, which are read as those of files.

    They are read twice, the second time to find out whether they are the same. Meanwhile, and until they are written, what was
    read is in the folder for temporary files.
    """

    name = "own"

    def __init__(self, options: Named) -> None:
        super().__init__(options)
        self.place = options.name
        self._part: Any = None
        """What it has returned last, of its first split."""
        self._parts: list[SplitName | None] = []
        """The splits that it says."""
        self._kept: Samples | Texts | Rows | None = None
        self._source: Samples | Texts | Table | None = None
        self._described: _Description | None = None
        self._previewed: tuple[dict[str, Field] | None] | None = None

    def chunks(self) -> Iterator[Chunk]:
        with self._named():
            yield from self._read().chunks()

    def preview(self) -> dict[str, Field] | None:
        """The fields of the first samples; None of rows, which are not known before all have been read."""
        if self._previewed is None:
            first = list(islice(self._values("trying"), TRIED))
            self._check_any(first)
            self._previewed = (None if self._are_rows(*first[0][::2]) else self._fields_of(first),)
        return self._previewed[0]

    @property
    def fields(self) -> dict[str, Field]:  # type: ignore[override]
        """Known only after all samples have been read."""
        return self._describe().fields

    def signature(self) -> Signature | None:
        return self._describe().signature

    @property
    def split(self) -> Split:  # type: ignore[override]
        """As the option says, or what the source returns."""
        return self._describe().split

    def meta(self) -> dict[str, Any]:
        return self._describe().meta()

    def description(self) -> dict[str, Any]:
        return {"name": self.place, **self.options.arguments, **self.options.of_tables, **self.options.of_texts}

    def files(self) -> list[File]:
        """Those of the option ``path``, and those that the source names."""
        path = self.options.arguments.get("path")
        named = [*([path] if isinstance(path, str) else []), *(self._own.files() if self._own else [])]
        return [file for each in named for file in files_below(str(each))]

    def changed(self) -> UserError:
        return UserError(f"the files of {self.place} changed while they were read", "run the same command again later")

    def close(self) -> None:
        for each in (self._source, self._kept):
            if each:
                each.close()
        self._source = self._kept = None

    def _identify(self) -> dict[str, Any]:
        with calling(self.place, "its version"):
            version = self._own.version() if self._own else ""
        module, own, _ = self.place.partition(":")
        code = own_code.hashes(own_code.files_of(module)) if own else {}
        return {**super()._identify(), "code": digest(code), "version": version, "rules": RULES}

    # --- the two readings ------------------------------------------------------------------------------------

    def _read(self) -> "Samples | Texts | Table":
        """What is read, again after `close`.

        Raises:
            UserError: the user's code fails, samples are not alike, or the two readings differ.
        """
        if self._source is None:
            marks = Marks()
            kept = self._collect(marks)
            self._compare(kept, marks)
            self._source = self._table(kept) if isinstance(kept, Rows) else kept
        return self._source

    def _collect(self, marks: "Marks") -> Samples | Texts | Rows:
        for place, split, value in self._values("reading"):
            if self._kept is None:
                self._kept = Rows(self.place) if self._are_rows(place, value) else self._samples()
            marks.add(self._kept.add(place, value, split))
            if self.limit and self._kept.bytes > self.limit:
                raise TooLarge(f"{self.place} has more than {self.limit} bytes", "build it: heliostat dataset build")
        self._check_any(marks)
        assert self._kept
        self._kept.finish()
        return self._kept

    def _compare(self, kept: Samples | Texts | Rows, marks: "Marks") -> None:
        """Read the samples again.

        Raises:
            UserError: they are others.
        """
        marks.rewind()
        for place, _, value in self._values("comparing"):
            try:
                mark = kept.hash(value)
            except UserError:  # the first time it was none that is refused
                mark = -1
            if mark != marks.next():
                raise self._differs(place)
        if marks.next() is not None:
            raise UserError(f"{self.place} yields fewer samples when it is read again", "yield the same each time")

    def _values(self, doing: str) -> Iterator[tuple[str, SplitName | None, Any]]:
        """The values that the source yields, each with its name for messages and its split, if the source says it."""
        self._part = None
        with calling(self.place):  # a new one for each reading, so that one that makes other samples each time is noticed
            parts = parts_of(self.place, self._own.rows() if self._own else self.options())
        total, done = sum(map(length_of, parts.values())), 0
        self._parts, self._part = list(parts), next(iter(parts.values()))
        for split, part in parts.items():
            for place, value in values_of(self.place, part, f"{split} " if split else ""):
                self.progress(f"{doing} {self.place}", done, total, "samples")
                yield place, None if split == "train" else split, value
                done += 1

    @cached_property
    def _own(self) -> Source | None:
        """The object of a class of the user's own."""
        make = self.options.make
        if not (isinstance(make, type) and issubclass(make, Source)):
            return None
        with calling(self.place):
            made: Source = self.options()
            return made

    # --- what they are ---------------------------------------------------------------------------------------

    def _describe(self) -> _Description:
        if self._described is None:
            with self._named():
                found = self._read()
                signature = found.signature() if isinstance(found, Table) else None
                split = found.split if isinstance(found, Table) and self._parts == [None] else self._split(found.fields)
                own = self._own_meta()
                self._described = _Description(found.fields, lambda: found.meta() | own, signature, split)
        return self._described

    def _check_any(self, samples: Sized) -> None:
        if not len(samples):
            raise UserError(f"{KEY} {self.place!r} yields no samples", "yield some")

    def _are_rows(self, place: str, value: Any) -> bool:
        if self.options.of_texts:
            return False
        with self._at(place):
            return table_of(value) is not None or is_row(named(value))

    def _split(self, fields: dict[str, Field]) -> Split:
        """Of samples that are no rows.

        Raises:
            UserError: it is that of a table, or the source has its own.
        """
        split = self.options.split
        if split and self._parts != [None]:
            raise UserError(f"dataset.options.split is set, and {self.place} returns its splits", "leave one of them out")
        if split and split.by not in ("content", "stratified"):
            raise UserError(
                f"dataset.options.split has by: {split.by}, but {self.place} yields arrays, and no rows of a table",
                "return {'train': ..., 'validation': ..., 'test': ...} from the source",
            )
        if split and split.by == "stratified" and not {LABEL, TARGET} & fields.keys():
            raise UserError(
                f"dataset.options.split has by: stratified, but {self.place} yields no label and no target", "name one"
            )
        validation, test = (name if name in self._parts else None for name in ("validation", "test"))
        return split or (Split(by="files", validation=validation, test=test) if validation or test else CONTENT)

    def _samples(self) -> Samples | Texts:
        if self.options.of_texts:
            return Texts(self.place, validate(self.options.of_texts, TextOptions, "dataset.options"))
        if given := ", ".join(name for name in self.options.of_tables if name != "split"):
            raise UserError(f"dataset.options has {given}, but {self.place} yields arrays, and no rows of a table", "remove it")
        return Samples(self.place, self._classes())

    def _fields_of(self, first: list[tuple[str, SplitName | None, Any]]) -> dict[str, Field]:
        tried = self._samples()
        try:
            for each in first:
                tried.add(each[0], each[2], each[1])
            tried.finish()
            return tried.fields
        finally:
            tried.close()

    def _own_meta(self) -> dict[str, Any]:
        """What the source keeps beside its samples.

        Raises:
            UserError: it is not plain.
        """
        given = dict(self._own.meta) if self._own else {}
        try:
            plain = json.loads(json.dumps(given, allow_nan=False))
        except (TypeError, ValueError) as error:
            what = f"{KEY} {self.place!r}: meta is not plain: {error}"
            raise UserError(what, "use texts, numbers, lists and dictionaries") from None
        return {"own": plain} if plain else {}

    def _classes(self) -> list[str]:
        """The names of the classes that the source has, or its dataset, also within one of torch's subsets."""
        found: Any = self._own or self._part
        while found is not None and not isinstance(getattr(found, "classes", None), list | tuple):
            found = getattr(found, "dataset", None)
        return [str(name) for name in found.classes] if found is not None else []

    def _table(self, rows: Rows) -> Table:
        options = {"target": self._target(rows), **self.options.of_tables}
        if given := {split: rows.folder(split) for split in rows.splits if split}:
            options["split"] = {"by": "files", **given}
        with self._named():
            table = Table(Table.Options.model_validate({"path": rows.folder(None), **options}))
        table.progress = self.progress
        return table

    def _target(self, rows: Rows) -> str:
        """The column to learn, if no option says it."""
        names = rows.names
        found = [name for name in (LABEL, TARGET) if name in names]
        if "target" not in self.options.of_tables and not found:
            raise UserError(
                f"{self.place} yields rows of a table with {', '.join(names)}, and dataset.options.target is missing",
                "set it to the name of the column to learn",
            )
        return found[0] if found else ""

    # --- messages --------------------------------------------------------------------------------------------

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Put the source's name into messages in place of the temporary folder of its rows."""
        try:
            yield
        except UserError as error:
            if not isinstance(self._kept, Rows):
                raise
            what, fix = (text.replace(self._kept.folder(None), self.place) for text in (error.what, error.fix))
            raise UserError(what, fix) from None

    @contextmanager
    def _at(self, place: str) -> Iterator[None]:
        """Put the name of a sample into messages."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.place}: {place} {error.what}", error.fix) from None

    def _differs(self, place: str) -> UserError:
        return UserError(
            f"{self.place}: {place} is another when it is read again",
            "yield the same samples in the same order each time: random changes of them belong into the loss of the task, and "
            "each run shuffles them itself",
        )


class Marks:
    """A hash of each value that a source has yielded, in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, mark: int) -> None:
        with temporary_space():
            self._file.write(mark.to_bytes(8, "little"))
        self.count += 1

    def rewind(self) -> None:
        """Go back to the first."""
        self._file.seek(0)

    def next(self) -> int | None:
        """The next one; None after the last."""
        data = self._file.read(8)
        return int.from_bytes(data, "little") if data else None
