"""TensorBoard: event files in the run folder, or in a folder of the user's for several runs."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from heliostat.config import Config, to_yaml
from heliostat.folder import Folder, absolute, expanded
from heliostat.workloads.tracking import events
from heliostat.workloads.tracking.tracker import Point, Tracked, Tracker

DEFAULT = "tensorboard"
CHUNK = 1 << 20
"""Bytes of a file in an object store, which cannot append: only the last file is written again."""
PATIENCE = 10.0
"""Seconds for which one attempt waits for the storage."""


class TensorBoard(Tracker):
    """Writes the whole record again when it is opened, in place of what an earlier process has left, perhaps incomplete."""

    class Options(Config):
        folder: str | None = Field(None, min_length=1, description="a folder or a URI; null: tensorboard in the run folder")

    @classmethod
    def resolved(cls, options: Any, base: Any) -> Any:
        folder = options.folder and absolute(expanded(options.folder, key="tracking.tensorboard.folder"), base)
        return options.model_copy(update={"folder": folder})

    def open(self, run: Tracked) -> Mapping[str, int]:
        chosen = self.options.folder
        place = Folder.at(chosen, PATIENCE) / run.name if chosen else run.folder / DEFAULT
        self._folder = place / run.trial if run.trial else place
        self.where = str(place)
        ours = f".heliostat-{run.id}."
        for name in self._folder.names():
            if ours in name:
                self._folder.delete(name)
        self._name, self._number, self._data = f"events.out.tfevents.{int(time.time())}{ours}", 0, b""
        params = dict(run.params)
        self._write([
            events.version(run.created),
            events.restart(run.created),
            events.started(run.created, run.title, params) if run.trial else b"",
            events.text(run.created, "config", f"```yaml\n{to_yaml(params)}```"),
        ])  # fmt: skip
        return {}

    def log(self, points: Sequence[Point]) -> None:
        for start in range(0, len(points), 1000):
            self._write([events.scalars(point.time, point.step, point.values) for point in points[start : start + 1000]])

    def close(self, run: Tracked) -> None:
        if run.trial:
            self._write([events.ended(run.ended, run.state in ("finished", "stopped"))])

    def _write(self, records: Sequence[bytes]) -> None:
        data = b"".join(records)
        file = f"{self._name}{self._number:04d}"
        if self._folder.is_local:
            self._folder.create()
            with self._folder.write_errors(), open(f"{self._folder.path}/{file}", "ab") as target:
                target.write(data)
            return
        self._data += data
        self._folder.write(file, self._data)
        if len(self._data) > CHUNK:
            self._number, self._data = self._number + 1, events.version(time.time())
