"""The progress of a run on standard error: a bar on a terminal, lines in a job."""

import os
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from heliostat.console import err, numbers

LINE_SECONDS = 5.0
"""Seconds between two lines of progress in a job, at least."""
GOODPUT_SECONDS = 30.0
"""Seconds between two computations of the goodput, which read all journals of the run."""
SHOWN = {"waiting": "waiting for nodes", "starting": "starting workers", "running": "training"}
LEFT = {"drain": "a node is being drained", "grow": "more workers fit"}


class Display:
    """A bar with the step, the loss, the speed and the time left; a line for each evaluation above it."""

    def __init__(self, plan: Any) -> None:
        from heliostat.environment import IN_A_JOB

        self._plan = plan
        self._lines = err.is_terminal or IN_A_JOB in os.environ
        self._next_line = 0.0
        self._next_goodput = time.monotonic() + GOODPUT_SECONDS
        self._goodput = ""
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=err, disable=not err.is_terminal, transient=True)
        self._bar = self._progress.add_task("starting Ray", total=None, loss="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def connected(self, dashboard: str) -> None:
        """Ray is connected: print the run's folder and the dashboard."""
        if self._lines:
            where = "resumes in" if self._plan.folder.exists("checkpoints") else "in"
            _say(f"{self._plan.config.name} {where} {self._plan.uri}")
        if err.is_terminal:
            err.print(f"Ray's dashboard is {dashboard} (its token is in ~/.heliostat/ray-token)", highlight=False)
        self._progress.update(self._bar, description="starting workers", total=self._plan.total_steps)

    def update(self, records: list[dict[str, Any]]) -> None:
        """Show new records of ``metrics.jsonl`` and ``attempts.jsonl``, and the ``told`` texts of ``events.jsonl``."""
        for record in records:
            if "told" in record:
                _say(record["told"])
                continue
            if "event" in record:
                self._attempt(record)
                continue
            step = record["step"]
            if record["kind"] == "train":
                loss = f"loss {record['loss']:.4f}  {record['samples_per_second']:,.0f} samples/s"
                self._progress.update(self._bar, completed=step, loss=loss, description="training")
                if not err.is_terminal and self._lines and time.monotonic() > self._next_line:
                    self._next_line = time.monotonic() + LINE_SECONDS
                    err.print(f"step {step:>6}  {loss}{self._productive()}", highlight=False)
            elif self._lines:
                self._progress.print(f"step {step:>6}  validation  {numbers(record['metrics'])}", highlight=False, markup=False)

    def _attempt(self, record: dict[str, Any]) -> None:
        """Print a change of the workers, also without a terminal."""
        event = record["event"]
        if event in SHOWN:
            self._progress.update(self._bar, description=SHOWN[event])
        if event == "waiting" or (event == "starting" and record["room"] < record["workers"]):
            _say(f"waiting for nodes: {record.get('reason') or self._room(record)}")
        elif event == "left":
            _say(f"{LEFT[record['reason']]}; saved at step {record['saved']}")
        elif event == "failed" and record["again"]:
            wait = f" in {record['wait']:g} s" if record["wait"] else ""
            resumes = f"resumes{wait} from step {record['saved']} (failure {record['failures']} of {record['most']})"
            _say(f"{record['reason']}; {resumes}")

    def _productive(self) -> str:
        """The goodput so far; empty for the first seconds, in which workers only start."""
        if time.monotonic() > self._next_goodput:
            from heliostat.retry import UNAVAILABLE
            from heliostat.workloads.run.goodput import goodput

            with suppress(*UNAVAILABLE):  # the last one is shown until storage is back
                self._goodput = f"  goodput {goodput(self._plan.folder.once).share:.0%}"
            self._next_goodput = time.monotonic() + GOODPUT_SECONDS
        return self._goodput

    def _room(self, record: dict[str, Any]) -> str:
        return f"there is room for {record['room']} workers, and at least {record['workers']} are needed"


def _say(text: str) -> None:
    """Print a line without markup: rich would take brackets in error messages for tags."""
    err.print(text, highlight=False, markup=False, soft_wrap=True)
