"""What a script under ``heliostat torchrun`` measures, in the journals of its run: written by rank 0, nothing elsewhere."""

import atexit
import os
import sys
from typing import Any

from heliostat.environment import RUN
from heliostat.folder import Folder
from heliostat.retry import TIMEOUT
from heliostat.workloads.run.journal import Journal, finite
from heliostat.workloads.run.record import EVENTS, METRICS
from heliostat.workloads.run.writer import LINGER
from heliostat.workloads.torchrun import this_run
from heliostat.workloads.torchrun.arguments import check_arguments

VALIDATION = ("val_", "valid_", "validation_", "eval_")
"""With what the names of metrics of a validation split begin in the trainers that there are."""
RESERVED = {"time", "kind", "step", "crc", "lazily"}
"""Keys of a record that no metric can have."""


class _Record:
    """The journals of the run folder, from the step on after which this process continues."""

    def __init__(self, run: Folder, step: int) -> None:
        self._metrics, self._events = (Journal(run, name, self._delayed) for name in (METRICS, EVENTS))
        self._metrics.rewind(step)
        about = this_run.workers()
        self.event("start", step, workers=about.get("workers", []), launched=about.get("launched", 0.0))
        self._first = True
        atexit.register(self._close)

    def event(self, event: str, step: int, **details: Any) -> None:
        self._events.append(event=event, step=step, **details)

    def metrics(self, kind: str, step: int, **values: Any) -> None:
        self._metrics.append(lazily=True, kind=kind, step=step, **values)

    def first_step(self, step: int) -> None:
        """Records when the first step was done."""
        if self._first:
            self._first = False
            self.event("first_step", step)

    def flush(self) -> None:
        """Writes what waits in memory, so that no checkpoint is newer than the record."""
        for journal in (self._metrics, self._events):
            journal.flush(LINGER)

    def _close(self) -> None:
        for journal in (self._metrics, self._events):
            journal.close(0.0 if this_run.State.lease and this_run.State.lease.lost else LINGER)

    def _delayed(self, error: str) -> None:
        this_run.say(f"{error}; training continues, and its records wait in memory")


class _This:
    """The record of this process, once there is one, and the step after which it begins."""

    record: _Record | None = None
    begins: int | None = None


def log(step: int, **metrics: Any) -> None:
    """Records metrics of a step in the run of this script, for ``heliostat runs``, its report and trackers.

    Called on any rank, and for a step as often as needed; rank 0 records. Names that begin with ``val_``, ``valid_``,
    ``validation_`` or ``eval_`` are those of a validation split, ``test_`` of a test split, and ``train_`` may be left out;
    ``epoch`` is the pass over the data. A script that has been resumed records each step once: its first call deletes what an
    earlier process has recorded of that step and later ones. Does nothing without ``heliostat torchrun``.

    Args:
        step: how many steps are done, as in `save`.
        metrics: numbers, or tensors with one element.

    Raises:
        TypeError: a metric is no number.
        ValueError: a step is negative, or a metric has a name that records use themselves.
        SystemExit: with code 2, if the run has been recorded with other arguments, or another process records it.
    """
    if not records():
        return
    if step < 0:
        raise ValueError(f"log: step is {step}, but must be at least 0")
    write(step, {name: _number(name, value) for name, value in metrics.items()})


def records() -> bool:
    """Whether this process records: on rank 0 under ``heliostat torchrun``."""
    return RUN in os.environ and this_run.rank() == 0


def write(step: int, values: dict[str, Any], seconds: float = 0.0) -> None:
    """Records numbers as `log` does, in a process that records.

    Args:
        step: how many steps are done.
        values: numbers by their names, see `log`.
        seconds: how long it took to measure them on another split.
    """
    epoch = {"epoch": int(values["epoch"])} if "epoch" in values else {}
    kinds = _by_kind({name: value for name, value in values.items() if name != "epoch"})
    record = _opened(max(0, step - 1))
    for kind, found in kinds.items():
        apart = {"seconds": round(seconds, 3)} if kind == "eval" else {}
        record.metrics(kind, step, **epoch, **apart, **(found if kind == "train" else {"metrics": finite(found)}))
    record.first_step(step)


def begin(step: int) -> None:
    """Notes after which step this process continues."""
    _This.begins = step


def stepped(step: int) -> None:
    """Notes that a step is done of which nothing is logged."""
    if records():
        _opened(max(0, step - 1)).first_step(step)


def saved(step: int, seconds: float) -> None:
    """Records a checkpoint for which the script has waited, in seconds."""
    if records():
        record = _opened(max(0, step - 1))
        record.first_step(step)
        record.event("checkpoint", step, seconds=round(seconds, 3))


def flush() -> None:
    """Writes what waits in memory."""
    if _This.record:
        _This.record.flush()


def _opened(step: int) -> _Record:
    """The record of this process; it begins after `begin`'s step, or else after ``step``."""
    if _This.record is None:
        run = this_run.folder()
        with this_run.refusals():
            check_arguments(run, sys.argv[1:])
            this_run.claim(run)
            _This.record = _Record(run.for_work(TIMEOUT), step if _This.begins is None else _This.begins)
    return _This.record


def _number(name: str, value: Any) -> float | int:
    if name.removeprefix("train_") in RESERVED:
        raise ValueError(f"log: {name} cannot be the name of a metric: each record has a value of that name itself")
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, int | float):
        raise TypeError(f"log: {name} is {value!r}, but must be a number or a tensor with one element")
    return value


def _by_kind(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics by the kind of their record, with the names that they have there."""
    kinds: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        prefix = next((prefix for prefix in VALIDATION if name.startswith(prefix) and name != prefix), "")
        kind = "eval" if prefix else "logged" if name.startswith("test_") else "train"
        short = name.removeprefix(prefix or "train_")
        kinds.setdefault(kind, {})[short or name] = value
    return kinds
