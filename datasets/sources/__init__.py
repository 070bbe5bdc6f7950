"""The sources of datasets. A source yields chunks of samples in a fixed order; `heliostat.datasets.build` writes them."""

import hashlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from heliostat.config import Config, nearest, validate
from heliostat.datasets.arrow import Columns
from heliostat.datasets.index import Field
from heliostat.datasets.signature import Signature
from heliostat.datasets.sources.files import File, identity
from heliostat.datasets.splits import CONTENT, Split
from heliostat.errors import UserError, combined

A = TypeVar("A")
B = TypeVar("B")
SOURCES = {
    "digits": "bundled:Digits",
    "breast-cancer": "bundled:BreastCancer",
    "text": "text:Text",
    "python-stdlib": "text:PythonStdlib",
    "images": "images:Images",
    "table": "table:Table",
    "huggingface": "huggingface:HuggingFace",
}
"""The module and class of each source, imported on first use."""
ROWS = {"tokenized": "heliostat.datasets.sources.tokenized:Tokenized"}
"""Bundled sources that yield rows, as those of users do."""


@dataclass(frozen=True)
class Chunk:
    """Some samples: for each the hash (n,) of what determines its split by content, see `hashes_of`, and arrays (n, *shape).

    Where shards may end depends on the chunks; one that does not ``end`` continues in the next. ``by`` (n,) has what another
    way to split needs: the places in `SPLITS` (of a column, or of files, where -1 leaves it to the content), hashes of groups
    (uint64), or times as numbers or datetime64.
    """

    hashes: npt.NDArray[np.uint64]
    columns: Columns
    ends: bool = True
    by: npt.NDArray[Any] | None = None


def hashes_of(keys: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    """BLAKE2b (64 bits) of the bytes by which samples are known."""
    digests, empty = [], hashlib.blake2b(digest_size=8)
    for key in keys:
        each = empty.copy()  # twice as fast as a new one
        each.update(key)
        digests.append(each.digest())
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


class Problems:
    """Collects what is wrong with a source, to refuse it with one message.

    Args:
        place: the file or folder that is read.
        most: how many are listed; the others are counted.
    """

    def __init__(self, place: str, most: int | None = None) -> None:
        self._place, self._most = place, most
        self._found: list[tuple[str, str]] = []

    def add(self, what: str, fix: str) -> None:
        self._found.append((what, fix))

    def refuse(self, otherwise: str = "") -> None:
        """Raise a UserError with all of them, if there are any; ``otherwise`` is another fix."""
        if not self._found:
            return
        also = f", or {otherwise}" if otherwise else ""
        first = f"{self._place}: " if len(self._found) == 1 else ""
        error = combined([UserError(f"{first}{what}", fix) for what, fix in self._found], self._place, self._most)
        raise UserError(error.what, error.fix + also)


class TooLarge(UserError):
    """A source has more data than is wanted."""


Progress = Callable[[str, int, int, str], None]
"""Gets what is done (an empty text at the end), how much of it so far, how much in all, and of what, such as rows."""


class Tasks(Protocol):
    """Computes a function, which can be pickled, of each item in other processes."""

    def __call__(self, function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        """Yield the results in order."""
        ...


class Source:
    """The base of all sources: validated options, a description, an identity, and chunks that can be read again."""

    class Options(Config):
        pass

    name: ClassVar[str]
    even: ClassVar[bool] = False
    """Whether the shards of a split have the same number of rows, whatever the chunks are."""
    fields: dict[str, Field]
    split: Split = CONTENT
    limit: int | None = None
    """Bytes of samples after which `TooLarge` is raised, by a source whose size is known only when it is read."""

    tasks: Tasks | None = None
    """Reads sections of the data in other processes, if the source can be divided; None reads all of it in this one."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.progress: Progress = lambda doing, done, total, unit: None
        self._identity: dict[str, Any] | None = None

    def chunks(self) -> Iterator[Chunk]:
        """The samples in a fixed order, with bounded memory."""
        raise NotImplementedError

    def meta(self) -> dict[str, Any]:
        """Metadata for tasks: the class names, the vocabulary. Some is known only after the chunks have been read."""
        raise NotImplementedError

    def signature(self) -> Signature | None:
        """The columns of a table; None of other data. It is known only after the chunks have been read."""
        return None

    def preview(self) -> dict[str, Field] | None:
        """The fields, if they are known without a long read; else None.

        Raises:
            UserError: the data is refused, as far as that is known without a long read.
        """
        return self.fields

    def description(self) -> dict[str, Any]:
        """The source's name and options, as they are recorded in the index."""
        return {"name": self.name, **self.options.model_dump(mode="json")}

    def identity(self) -> dict[str, Any]:
        """What is found without a long read, and changes with the content of the files or with the files that there are.

        It is that of the first call; see `files.identity`.
        """
        if self._identity is None:
            self._identity = self._identify()
        return self._identity

    def check_unchanged(self) -> None:
        """Raise a UserError if the files are not what they were when `identity` was first called."""
        if self._identify() != self.identity():
            raise self.changed()

    def changed(self) -> UserError:
        return UserError(
            f"the files of {self.description().get('path', self.name)} changed while they were read",
            "run the same command again when nothing writes to them",
        )

    def files(self) -> list[File]:
        """The files that there are."""
        return []

    def close(self) -> None:
        """Free what is kept for the next reading of the chunks."""

    def _identify(self) -> dict[str, Any]:
        try:
            return {**self.description(), "files": identity(self.files())}
        except FileNotFoundError:  # removed after it was listed
            raise self.changed() from None


def open_source(name: str, options: Mapping[str, Any]) -> Source:
    """The source of that name, with its options checked.

    Raises:
        UserError: the source does not exist, or an option is wrong.
    """
    cls, checked = find_source(name, options)
    return cls(checked)


def find_source(name: str, options: Mapping[str, Any]) -> tuple[type[Source], Any]:
    """The class of a source and its checked options; no file is opened, and a source of the user's own is not called.

    Raises:
        UserError: the source does not exist, or an option is wrong.
    """
    name = ROWS.get(name, name)
    if name not in SOURCES and ("://" in name or Path(name).exists()):
        fix = f"write table, text or images as the source, and its option path: {name}"
        raise UserError(f"dataset.source is {name!r}, which is data and not the kind of it", fix)
    if ":" in name:
        return _imported("own.source:Own"), importlib.import_module("heliostat.datasets.sources.own").find(name, options)
    if name not in SOURCES:
        fix = nearest(name, [*SOURCES, *ROWS]) + ", or write module:Name of your own"
        raise UserError(f"dataset.source is {name!r}, which is not a source", fix)
    cls = _imported(SOURCES[name])
    return cls, validate(options, cls.Options, "dataset.options")


def options_type(name: str) -> type[Config]:
    """The type of the options of one of `SOURCES`."""
    kind: type[Config] = _imported(SOURCES[name]).Options
    return kind


def _imported(name: str) -> Any:
    module, _, kind = name.partition(":")
    return getattr(importlib.import_module(f"heliostat.datasets.sources.{module}"), kind)
