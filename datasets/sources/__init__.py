"""The sources of datasets. A source yields chunks of samples in a fixed order; `heliostat.datasets.build` writes them."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from heliostat.config import Config, digest, nearest, validate
from heliostat.datasets.arrow import Columns
from heliostat.datasets.index import Field
from heliostat.errors import UserError

SOURCES = {
    "digits": "bundled:Digits",
    "breast-cancer": "bundled:BreastCancer",
    "text": "text:Text",
    "python-stdlib": "text:PythonStdlib",
    "images": "images:Images",
    "table": "table:Table",
}
"""The module and class of each source, imported on first use."""


@dataclass(frozen=True)
class Chunk:
    """Some samples: arrays (n, *shape), and for each sample the bytes that determine its split."""

    keys: list[bytes]
    columns: Columns


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
        if len(self._found) == 1:
            (what, fix) = self._found[0]
            raise UserError(f"{self._place}: {what}", fix + also)
        lines = [f"\n    {what}: {fix}" for what, fix in self._found[: self._most]]
        more = len(self._found) - len(lines)
        lines += [f"\n    and {more} more"] if more else []
        raise UserError(f"{self._place} has {len(self._found)} problems:{''.join(lines)}", f"correct all of them{also}")


class Source(Protocol):
    """The interface of a source. ``fields`` and ``meta()`` may be known only after the chunks have been read."""

    fields: dict[str, Field]

    def chunks(self) -> Iterator[Chunk]: ...

    def meta(self) -> dict[str, Any]:
        """Metadata for tasks: the class names, the vocabulary."""
        ...

    def description(self) -> dict[str, Any]:
        """The source's name and options, as they are recorded in the index."""
        ...

    def identity(self) -> dict[str, Any]:
        """The description and the paths, sizes and times of the files: sources with equal identities have equal content."""
        ...


class Base:
    """The base of all sources: validated options, a description, an identity."""

    class Options(Config):
        pass

    name: ClassVar[str]
    fields: dict[str, Field]

    def __init__(self, options: Any) -> None:
        self.options = options

    def description(self) -> dict[str, Any]:
        return {"name": self.name, **self.options.model_dump(mode="json")}

    def identity(self) -> dict[str, Any]:
        stats = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in self.files()]
        return {**self.description(), "files": digest(stats)}

    def files(self) -> list[Path]:
        """The files that are read."""
        return []


def open_source(name: str, options: Mapping[str, Any]) -> Source:
    """The source of that name, with its options checked.

    Raises:
        UserError: the source does not exist, or an option is wrong.
    """
    if name not in SOURCES:
        raise UserError(f"dataset.source is {name!r}, which is not a source", nearest(name, SOURCES))
    module, _, kind = SOURCES[name].partition(":")
    cls = getattr(importlib.import_module(f"heliostat.datasets.sources.{module}"), kind)
    source: Source = cls(validate(options, cls.Options, "dataset.options"))
    return source
