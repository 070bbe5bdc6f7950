"""A sample of the rows that a service answers, with their predictions, in files of bounded size.

It is private: nobody but the user of the service can read it, and a service keeps none unless it is asked to.
"""

import json
import logging
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from heliostat.config import Config
from heliostat.errors import UserError
from heliostat.home import own_folder

if TYPE_CHECKING:
    from heliostat.workloads.serve.servable import Servable

BYTES = 32 << 20
"""Of a file; there are two, the newer of which is written, and then takes the place of the older."""
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
    """

    def __init__(self, folder: Path, share: float) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        super().__init__(folder / FILE, maxBytes=BYTES, backupCount=1, encoding="utf-8")
        self._share, self._said = share, False

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
    files = [path for path in (folder / f"{FILE}.1", folder / FILE) if path.is_file()]
    if not files:
        raise UserError(f"there are no rows in {folder}", "start the service with --sample 0.1, which keeps a tenth of them")
    found = []
    for path in files:
        # The last line may be incomplete while the service writes it, or after it was killed.
        lines = path.read_bytes().decode(errors="replace").split("\n")[:-1]
        found += [each for each in map(_parsed, lines) if each and each.version == version]
    return found[-most:]


def _parsed(line: str) -> Sampled | None:
    try:
        return Sampled.model_validate_json(line)
    except pydantic.ValidationError:
        return None
