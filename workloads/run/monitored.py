"""What Prometheus gets to know of a run while it is driven: from its records, as they are read."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from heliostat.workloads.run.goodput import KINDS, Goodput

Sample = tuple[str, dict[str, str], float]
"""The name of a metric, its labels and its value."""

RUN = {
    "heliostat_run_goodput_seconds": (
        ("run", "kind"), "Worker-seconds so far by what they were spent on, of earlier commands too.",
    ),
    "heliostat_run_step": (("run",), "The last step that is known."),
    "heliostat_run_steps": (("run",), "The steps of the whole run."),
    "heliostat_run_steps_per_second": (("run",), "Steps a second between the last two records of the loss."),
    "heliostat_run_samples_per_second": (("run",), "Samples a second of all workers, at the last record of the loss."),
    "heliostat_run_loss": (("run",), "The training loss at its last record."),
    "heliostat_run_data_wait_ratio": (("run",), "The share of the time of steps in which the workers waited for data."),
    "heliostat_run_progress_timestamp_seconds": (
        ("run",), "When the workers last reported a loss, an evaluation or a checkpoint, or were started.",
    ),
    "heliostat_run_checkpoint_timestamp_seconds": (
        ("run",), "When the last checkpoint was saved, or later the workers began from it: what came after would be lost.",
    ),
    "heliostat_run_checkpoint_seconds": (("run",), "How long the last checkpoint took until it was complete."),
    "heliostat_run_workers_desired": (("run",), "The workers that it runs with, or waits for."),
    "heliostat_run_workers_ready": (("run",), "The workers that are running."),
    "heliostat_run_restarts": (("run", "cause"), "Restarts of its workers by cause, of earlier commands too."),
}  # fmt: skip
"""The metrics of a run, all of them gauges: their labels and meaning."""
RATES = ("steps_per_second", "samples_per_second", "data_wait_ratio")
"""What is unknown while no worker runs."""

Record = dict[str, Any]


class RunState:
    """The state of one run, from the records of all three of its journals in the order of their times.

    Args:
        name: of the run.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._values: dict[str, float] = {}
        self._restarts: Counter[str] = Counter()
        self._goodput = dict.fromkeys(KINDS, 0.0)
        self._counted = 0.0
        self._phase, self._workers = "", 0
        self._logged: tuple[int, float] | None = None
        self.recount = True
        """Whether the goodput must be counted from all records: what an attempt has lost shows only when the next one runs."""

    def add(self, records: Iterable[Record]) -> None:
        """Adds what is new."""
        for record in records:
            if "event" in record:
                self._event(record)
            elif record.get("kind") in ("train", "eval"):
                self._measured(record)

    def count(self, goodput: Goodput) -> None:
        """Takes the goodput that was counted from all records."""
        self.recount = False
        self._count(goodput.worker_seconds, goodput.spans[-1].end if goodput.spans else 0.0)

    def samples(self, now: float) -> Iterator[Sample]:
        """The values at a time in seconds since the epoch; what is not known is left out."""
        passed = max(0.0, now - self._counted) * self._workers
        for kind, seconds in self._goodput.items():
            yield self._sample("goodput_seconds", seconds + (passed if kind == self._phase else 0.0), kind=kind)
        for cause, count in self._restarts.items():
            yield self._sample("restarts", count, cause=cause)
        for name, value in self._values.items():
            yield self._sample(name, value)

    def _sample(self, name: str, value: float, **labels: str) -> Sample:
        return f"heliostat_run_{name}", {"run": self._name, **labels}, value

    def _event(self, record: Record) -> None:
        event, at = record["event"], record["time"]
        if event in ("failed", "left") and record.get("again", True):
            # Earlier versions recorded no cause; that of workers which left by themselves is the reason.
            self._restarts[record.get("cause") or (record["reason"] if event == "left" else "unknown")] += 1
        if event in ("failed", "left", "ended", "waiting", "starting", "launched"):
            self._stopped({"waiting": "nodes", "starting": "starting"}.get(event, ""), at)
            self._set("workers_desired", record.get("workers"))
            self._workers = record.get("workers", 0)
        elif event == "running":
            self._workers = record["workers"]
            self._values |= {"workers_desired": self._workers, "workers_ready": self._workers, "progress_timestamp_seconds": at}
            saved = self._values.get("checkpoint_timestamp_seconds", 0.0)
            self._values["checkpoint_timestamp_seconds"] = max(saved, at)
            self._until(at, "starting")
        elif event == "start":
            self._values["step"] = record["step"]
            self._set("steps", record.get("total"))
        elif event == "first_step":
            self._until(at, "productive")
            self._progress(record)
            self.recount = True
        elif event == "checkpoint":
            self._values["checkpoint_timestamp_seconds"] = at
            self._set("checkpoint_seconds", record.get("written"))
            self._progress(record)

    def _measured(self, record: Record) -> None:
        self._progress(record)
        if record["kind"] == "eval":
            if counted := record.get("goodput"):
                self._count(counted, record["time"])
            return
        step, at = record["step"], record["time"]
        if self._logged and step > self._logged[0] and at > self._logged[1]:
            self._values["steps_per_second"] = (step - self._logged[0]) / (at - self._logged[1])
        self._logged = step, at
        for key, name in (("loss", "loss"), ("samples_per_second", "samples_per_second"), ("data_wait", "data_wait_ratio")):
            self._set(name, record.get(key))

    def _progress(self, record: Record) -> None:
        self._values |= {"step": record["step"], "progress_timestamp_seconds": record["time"]}

    def _stopped(self, phase: str, at: float) -> None:
        self._until(at, phase)
        self._logged = None
        self._values["workers_ready"] = 0
        for name in RATES:
            self._values.pop(name, None)

    def _set(self, name: str, value: float | None) -> None:
        """Sets a value; one that is not known, such as an infinite loss, is left out."""
        if value is None:
            self._values.pop(name, None)
        else:
            self._values[name] = value

    def _until(self, at: float, phase: str) -> None:
        """Ends the phase, whose time counts."""
        if self._phase:
            self._goodput[self._phase] += max(0.0, at - self._counted) * self._workers
        self._counted, self._phase = max(self._counted, at), phase

    def _count(self, seconds: dict[str, float], until: float) -> None:
        if until >= self._counted:
            self._goodput = dict.fromkeys(KINDS, 0.0) | seconds
            self._counted = until
