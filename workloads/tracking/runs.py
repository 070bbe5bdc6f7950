"""A run as trackers show it, from its record."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from heliostat.config import digest
from heliostat.folder import Folder
from heliostat.workloads.run.chunks import Record
from heliostat.workloads.run.goodput import share_of
from heliostat.workloads.run.journal import Tail, read_journal
from heliostat.workloads.run.record import CONFIG, EVALUATION, METRICS, REPORT, RESULT, Result, RunRecord, read_record
from heliostat.workloads.run.so_far import result_of
from heliostat.workloads.tracking.tracker import RUNNING, Point, Tracked

APART = {"time", "kind", "step", "epoch"}
"""What a record of the loss has besides measurements."""
SPLITS = {"train": "train", "eval": "validation", "logged": "logged"}
"""By kind of record the first part of the names of its values; ``logged`` are those of callbacks."""
UNSHOWN = {"name", "storage", "tracking", "notify"}
"""Keys of a config that are no parameters."""


class RunReader:
    """Reads a run: at first and at its end all points, between those that are new, or that were computed again."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._record = folder, read_record(folder)
        self._tail = Tail(folder, METRICS, repeats=True)
        self._params = params_of(self._record)
        self._read = False

    def __call__(self, state: str) -> Sequence[Tracked]:
        """The run in the state that its driver has said."""
        folder, record = self._folder, self._record
        following = self._read and state == RUNNING  # else all of it, at the end once more
        points = points_of(self._tail.new() if following else read_journal(folder, METRICS))
        self._read = True
        found, ended = {"git": record.git, "folder": str(folder), "state": state}, 0.0
        if state != RUNNING:
            result = result_of(folder, running=False)
            ended = max([record.created, *(point.time for point in points)])
            points += final_points(result, ended)
            found |= tags_of(result.cost, share_of(result.goodput) if result.goodput else None)
        return [
            Tracked(
                id=identity(record), name=record.config.name, folder=folder, created=record.created,
                params=self._params, tags={key: value for key, value in found.items() if value}, points=points,
                state=state, ended=ended, files=(CONFIG, RESULT, EVALUATION, REPORT),
            )
        ]  # fmt: skip


def identity(record: RunRecord) -> str:
    """The same for the life of a run, and in its copies."""
    return digest([record.config.name, record.created])


def params_of(record: RunRecord) -> dict[str, Any]:
    """What decides a run: its config, its data, and the versions that it was started with."""
    config = record.config.model_dump(mode="json", exclude=UNSHOWN)
    return flat({**config, "data": record.dataset.fingerprint, "version": record.versions})


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones; lists as JSON, and without what is null."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list) else value
    return found


def points_of(records: Sequence[Record]) -> list[Point]:
    """The points of ``metrics.jsonl``."""
    return [point for record in records if (point := _point(record)).values]


def _point(record: Record) -> Point:
    kind = record["kind"]
    values = {k: v for k, v in record.items() if k not in APART} if kind == "train" else record.get("metrics", {})
    return Point(record["step"], record["time"], named(SPLITS[kind], values))


def final_points(result: Result, time: float) -> list[Point]:
    """The metrics of the best checkpoint on the test split, which a finished run has, at its last step."""
    values = named("test", result.metrics.get("test", {}))
    return [Point(result.step, time, values)] if values else []


def named(split: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among some values, as ``split/name``; what was not finite has no number."""
    return {f"{split}/{k}": float(v) for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def tags_of(cost: float | None, goodput: float | None) -> dict[str, str]:
    """The tags of an end."""
    return {
        **({} if cost is None else {"cost": str(round(cost, 4))}),
        **({} if goodput is None else {"goodput": f"{goodput:.3f}"}),
    }
