"""Where datasets come from. A source yields chunks of samples in a fixed order; `heliostat.datasets.build` does the rest."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from heliostat.config import Config, digest, nearest, validate
from heliostat.datasets.format import Columns, Field
from heliostat.errors import UserError

SOURCES = {
    "digits": "bundled:Digits",
    "breast-cancer": "bundled:BreastCancer",
    "text": "text:Text",
    "python-stdlib": "text:PythonStdlib",
    "images": "images:Images",
    "table": "table:Table",
}
"""The name of each source and where its class is, loaded only when it is asked for."""


@dataclass(frozen=True)
class Chunk:
    """Some samples: arrays (n, *shape) and, for each, the bytes that decide which split it belongs to."""

    keys: list[bytes]
    columns: Columns


class Source(Protocol):
    """What a source must offer. ``fields`` and ``meta()`` may be known only after the chunks have been read."""

    fields: dict[str, Field]

    def chunks(self) -> Iterator[Chunk]: ...

    def meta(self) -> dict[str, Any]:
        """What tasks need to know: the class names, the vocabulary."""
        ...

    def description(self) -> dict[str, Any]:
        """The source's name and options, as they are recorded in the index."""
        ...

    def identity(self) -> dict[str, Any]:
        """The description and what shows that the files are the same without reading them: two with one are equal."""
        ...


class Base:
    """What all sources share: options that are checked, a description of themselves."""

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
        UserError: there is no such source, or an option does not fit.
    """
    if name not in SOURCES:
        raise UserError(f"dataset.source is {name!r}, which is not a source", nearest(name, SOURCES))
    module, _, kind = SOURCES[name].partition(":")
    cls = getattr(importlib.import_module(f"heliostat.datasets.sources.{module}"), kind)
    source: Source = cls(validate(options, cls.Options, "dataset.options"))
    return source
