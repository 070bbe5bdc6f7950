"""What is recorded of a script that uses `heliostat.torchrun`: read from its run folder, for lists, reports and trackers."""

import json
import shlex
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.chunks import Record
from heliostat.workloads.run.cost import cost_of
from heliostat.workloads.run.goodput import account
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.lease import Observer
from heliostat.workloads.run.record import EVENTS, METRICS, Measured, Result
from heliostat.workloads.torchrun.arguments import ARGUMENTS, DRIVER


@dataclass(frozen=True)
class ScriptRecord:
    """``script.json``: what ran, and with how many workers last; of an earlier version only the arguments are known."""

    script: str
    arguments: list[str]
    workers: int | None
    created: float

    @property
    def command(self) -> str:
        """The script with its arguments, as it was given."""
        return shlex.join([self.script, *self.arguments])


def is_script(folder: Folder) -> bool:
    """Whether a folder is the run of a script."""
    return folder.exists(ARGUMENTS)


def read_script(folder: Folder) -> ScriptRecord:
    """The record of a script.

    Raises:
        UserError: it cannot be read.
    """
    try:
        found = json.loads(folder.read(ARGUMENTS))
        sizes = found.get("workers") or [None]
        return ScriptRecord(found.get("script", folder.name), found["arguments"], sizes[-1], float(found.get("created", 0)))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder}/{ARGUMENTS} is damaged", "delete it; the same command writes it again") from None


def script_result(folder: Folder) -> Result:
    """What a script has recorded so far: the last value of each metric, the state, the time, goodput and cost."""
    attempts, events, metrics = (read_journal(folder, name) for name in (ATTEMPTS, EVENTS, METRICS))
    spans = account(attempts, events, metrics)
    return Result(
        name=folder.name,
        run=str(folder),
        state=_state(folder, attempts),  # type: ignore[arg-type]
        step=max((record["step"] for record in [*events, *metrics]), default=0),
        epoch=max((record.get("epoch", 0) for record in metrics), default=0),
        metrics=last_values(metrics),
        seconds={"total": round(sum(span.end - span.begin for span in spans.spans if span.kind != "idle"), 2)},
        goodput={kind: round(value, 2) for kind, value in spans.worker_seconds.items() if value},
        cost=cost_of(attempts, events, metrics),
    )


def shown_split(result: Result) -> str:
    """The split whose metrics stand for a script in a list."""
    return next((split for split in ("test", "validation") if split in result.metrics), "train")


def title(record: ScriptRecord) -> str:
    """The script's name, as the task of a run."""
    return PurePath(record.script).name


def last_values(metrics: list[Record]) -> Measured:
    """The last value of each metric, by split."""
    found: dict[str, dict[str, Any]] = {"train": {}, "validation": {}, "test": {}}
    for record in metrics:
        for split, name, value in values_of(record):
            found[split][name] = value
    return {split: values for split, values in found.items() if values}


def values_of(record: Record) -> list[tuple[str, str, float | None]]:
    """The metrics of a record of ``metrics.jsonl``: the split, the name, and the value; None for NaN."""
    if record["kind"] == "train":
        return [("train", name, value) for name, value in record.items() if name not in ("time", "kind", "step", "epoch")]
    split = "validation" if record["kind"] == "eval" else "test"
    return [(split, name.removeprefix("test_"), value) for name, value in record["metrics"].items()]


def _state(folder: Folder, attempts: list[Record]) -> str:
    if Observer(folder).is_driven() or Observer(folder / DRIVER).is_driven():
        return "running"
    last = attempts[-1] if attempts else {}
    return str(last["state"]) if last.get("event") == "ended" else "interrupted"
