"""A sample of the rows that a service answers, with their predictions, in files of bounded size.

It is private: only the user of the service can read it, and a service keeps none unless it is asked to.
"""

import json
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pydantic

from heliostat.config import Config
from heliostat.errors import UserError
from heliostat.home import own_folder

if TYPE_CHECKING:
    from heliostat.workloads.serve.servable import Servable

BYTES = 32 << 20
"""Of a file, which a single request may exceed; there are two, the newer of which is written, and then becomes the older."""
FILE = "rows.jsonl"
Rows = Sequence[Mapping[str, Any]]
Keep = Callable[["Servable", Rows, Rows], None]
"""What takes the model, the rows and the predictions of an answer."""


def nothing(model: "Servable", rows: Rows, predictions: Rows) -> None:
    """Keeps no rows."""


class Sampled(Config):
    """A row that was answered."""

    time: float
    """In seconds since the epoch."""
    version: str
    """The name of its folder in the registry: that of no other trained model, and the same if the storage is moved."""
    row: dict[str, Any]
    prediction: dict[str, Any]


def folder_of(service: str) -> Path:
    """Where a service keeps its sample."""
    return own_folder("services") / f"{service}.rows"


class Sample(RotatingFileHandler):
    """Writes the sample of a service; a disk that is full costs rows of the sample, not answers.

    Args:
        folder: its folder.
        share: of the rows, from 0 to 1.

    Raises:
        UserError: the folder or the file cannot be made or written.
    """

    def __init__(self, folder: Path, share: float) -> None:
        self._share, self._said = share, False
        try:
            super().__init__(folder / FILE, maxBytes=BYTES, backupCount=1, encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"rows cannot be kept in {folder}: {error.strerror}", "move away what is there, or leave --sample out"
            ) from None

    def _open(self) -> TextIOWrapper:
        folder = Path(self.baseFilename).parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # also one that was there
        private = partial(os.open, mode=0o600)
        return cast(TextIOWrapper, open(self.baseFilename, self.mode, encoding=self.encoding, opener=private))

    def add(self, model: "Servable", rows: Rows, predictions: Rows) -> None:
        """Keeps a share of rows that a model of the registry has answered, of each the columns that the model takes."""
        names = {name for column in model.signature["columns"] for name in (column["name"], column["source"]) if name}
        head = {"time": round(time.time(), 3), "version": model.source.rpartition("/")[2]}
        lines = [
            json.dumps({**head, "row": {name: row[name] for name in row if name in names}, "prediction": prediction})
            for row, prediction in zip(rows, predictions, strict=True)
            if random.random() < self._share
        ]
        if lines:  # one record, as each is flushed
            self.handle(logging.makeLogRecord({"msg": "\n".join(lines)}))

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 the name is logging's
        """Whether the file is full; one that was deleted, or that a full disk has closed, is opened again for the record."""
        if self.stream and (self.stream.closed or not os.path.exists(self.baseFilename)):
            stream, self.stream = self.stream, None
            stream.close()
        return bool(super().shouldRollover(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 the name is logging's
        """Says once that rows cannot be written."""
        if not self._said:
            self._said = True
            print(f"heliostat: rows are not kept in {self.baseFilename}: {sys.exc_info()[1]}", file=sys.stderr, flush=True)


def read(folder: Path, version: str, most: int) -> list[Sampled]:
    """The newest rows that a version has answered, ``most`` at most, the oldest first.

    Args:
        folder: of the sample.
        version: see `Sampled`.
        most: how many rows.

    Raises:
        UserError: the service has kept none.
    """
    contents = _contents(folder)
    if not contents:
        raise UserError(f"there are no rows in {folder}", "start the service with --sample 0.1, which keeps a tenth of them")
    found = []
    for content in contents:
        # The last line may be incomplete while the service writes it, or after it was killed.
        lines = content.decode(errors="replace").split("\n")[:-1]
        found += [each for each in map(_parsed, lines) if each and each.version == version]
    return found[-most:]


def _contents(folder: Path) -> list[bytes]:
    """Of the files, the older one first.

    The newer one is opened first: if it takes the place of the older one meanwhile, it is found twice, and not missed.
    """
    found: dict[int, bytes] = {}
    for name in (FILE, f"{FILE}.1"):
        with suppress(FileNotFoundError, NotADirectoryError), (folder / name).open("rb") as file:
            found[os.fstat(file.fileno()).st_ino] = file.read()
    return [*found.values()][::-1]


def _parsed(line: str) -> Sampled | None:
    try:
        return Sampled.model_validate_json(line)
    except pydantic.ValidationError:
        return None
