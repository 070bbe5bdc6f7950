"""The progress of a run on standard error: a live line on a terminal, a line for each record elsewhere."""

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any, Protocol, Self

from heliostat.commands.terminal.phases import Phases
from heliostat.console import duration, err, numbers
from heliostat.wording import agreeing, counted

GOODPUT_SECONDS = 30.0
"""Seconds between two computations of the goodput, which read all journals of the run."""
WINDOW = 20
"""Records of the loss from which the speed, and so the time left, is estimated."""
NARROW, WIDE = 70, 100
"""Columns below which the samples per second are left out, and above which there is a bar."""
SHOWN = {
    "waiting": "waiting for nodes", "starting": "starting workers", "running": "preparing the first step",
    "evaluating": "evaluating", "trained": "evaluating the best checkpoint on all splits", "evaluated": "writing the report",
}  # fmt: skip
"""The phase that an event begins."""
LEFT = {"drain": "a node is being drained", "grow": "more workers fit"}


class Shown(Protocol):
    """What shows the progress of a run or a sweep."""

    def connected(self) -> None:
        """Ray is connected."""

    def update(self, news: Any, /) -> None:
        """Show new records of a run, see `heliostat.workloads.ray_train.records.Watch`, or the trials of a sweep."""


MakeDisplay = Callable[[Any], AbstractContextManager[Shown]]
"""Makes the display of a plan."""
MakeWatch = Callable[[Any], AbstractContextManager[Callable[[list[dict[str, Any]]], None]]]
"""Makes what gets the new records of a plan."""


class Display:
    """Shows the phase, the step, the loss, the speed and the time left; above it a line for each evaluation and print.

    Args:
        plan: of the run.
        verbose: whether Ray shows what the workers print.
        quiet: whether only changes of the workers are shown where there is no terminal.
    """

    def __init__(self, plan: Any, verbose: bool = False, quiet: bool = False) -> None:
        from heliostat.environment import IN_A_JOB

        self._plan, self._verbose, self._job = plan, verbose, IN_A_JOB in os.environ
        self._lines = err.is_terminal or self._job or not quiet
        self._next_goodput = time.monotonic() + GOODPUT_SECONDS
        self._goodput = ""
        self._step, self._total, self._loss, self._speed = 0, 0, "", ""
        self._pace: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._heading = ""
        self._phases = Phases(self._line, quiet=not self._lines)

    def __enter__(self) -> Self:
        self._phases.begin("starting workers")
        self._phases.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._phases.__exit__(kind, error, trace)

    def connected(self) -> None:
        """Ray is connected: print the run's folder."""
        where = "resumes in" if self._plan.folder.exists("checkpoints") else "in"
        self._heading = f"{self._plan.config.name} {where} {self._plan.uri}"
        if err.is_terminal or self._job:
            self._head()
        self._total = self._plan.total_steps or 0
        self._phases.begin("starting workers")

    def _head(self) -> None:
        """Print the run's folder once; in a pipe with the first record, so that an error before it stands alone."""
        if self._heading:
            _say(self._heading)
        self._heading = ""

    def update(self, records: list[dict[str, Any]]) -> None:
        """Show new records of ``metrics.jsonl``, ``attempts.jsonl`` and ``events.jsonl``, and what the workers print."""
        for record in records:
            if "told" in record:
                _say(record["told"])
            elif "printed" in record:
                self._print(record)
            elif "event" in record:
                self._event(record)
            elif record["kind"] == "train":
                self._trained(record)
            elif record["kind"] == "eval":
                self._phases.begin("")
                if self._lines:
                    self._head()
                    _say(f"step {record['step']:>6}  validation  {numbers(record['metrics'])}")

    def _print(self, record: dict[str, Any]) -> None:
        if not self._verbose:
            rank = f"[rank {record['rank']}] " if self._plan.config.most_workers > 1 else ""
            _say(f"{rank}{record['printed']}")

    def _trained(self, record: dict[str, Any]) -> None:
        self._phases.begin("")
        self._step = record["step"]
        if self._pace and self._pace[-1][1] >= self._step:
            self._pace.clear()  # it has resumed from an earlier step
        self._pace.append((record["time"], self._step))
        self._loss, self._speed = f"loss {record['loss']:.4f}", f"{record['samples_per_second']:,.0f} samples/s"
        if not err.is_terminal and self._lines:
            self._head()
            left = f"  {text}" if (text := self._left()) else ""
            _say(f"step {self._step:>6}  {self._loss}  {self._speed}{left}{self._productive()}")

    def _left(self) -> str:
        """The time left at the recent speed, evaluations included."""
        if len(self._pace) < 2 or self._step >= self._total:
            return ""
        (before, first), (now, last) = self._pace[0], self._pace[-1]
        return f"{duration((self._total - last) * (now - before) / (last - first))} left"

    def _line(self, phase: str, seconds: float) -> str:
        """The live line, as much of it as fits."""
        if phase and not self._step:
            return f"{phase}  {duration(seconds)}" if seconds >= 1 else phase
        width = err.width
        state = f"{phase}  {duration(seconds)}" if phase and seconds >= 1 else phase or "training"
        parts = [state, f"{self._step}/{self._total or '?'}", self._loss, self._speed if width >= NARROW else "", self._left()]
        text = "  ".join(part for part in parts if part)
        if width >= WIDE and self._total:
            text = f"{text}  {_bar(self._step / self._total, min(40, width - len(text) - 3))}"
        return text

    def _event(self, record: dict[str, Any]) -> None:
        """Show a phase, and print a change of the workers, also without a terminal."""
        event = record["event"]
        if event in SHOWN:
            self._phases.begin(SHOWN[event])
        if event == "waiting" or (event == "starting" and record["room"] < record["workers"]):
            _say(f"waiting for nodes: {record.get('reason') or self._room(record)}")
        elif event == "left":
            _say(f"{LEFT[record['reason']]}; saved at step {record['saved']}")
        elif event == "failed" and record["again"]:
            wait = f" in {record['wait']:g} s" if record["wait"] else ""
            resumes = f"resumes{wait} from step {record['saved']} (failure {record['failures']} of {record['most']})"
            _say(f"{record['reason']}; {resumes}")

    def _productive(self) -> str:
        """The goodput so far, in a job; empty for the first seconds, in which workers only start."""
        if self._job and time.monotonic() > self._next_goodput:
            from heliostat.retry import UNAVAILABLE
            from heliostat.workloads.run.goodput import goodput

            with suppress(*UNAVAILABLE):  # the last one is shown until storage is back
                self._goodput = f"  goodput {goodput(self._plan.folder.once).share:.0%}"
            self._next_goodput = time.monotonic() + GOODPUT_SECONDS
        return self._goodput

    def _room(self, record: dict[str, Any]) -> str:
        room, least = record["room"], record["workers"]
        return f"there is room for {counted(room, 'worker')}, and at least {least} {agreeing(least, 'are needed')}"


def evaluations(records: list[dict[str, Any]]) -> None:
    """Print a line for each evaluation of a run in this process, where a bar would overwrite a debugger's prompt."""
    for record in records:
        if record.get("kind") == "eval":
            _say(f"step {record['step']:>6}  validation  {numbers(record['metrics'])}")


def _bar(share: float, width: int) -> str:
    """A bar of ``width`` columns; empty if that is not enough for one."""
    done = round(share * width)
    return "━" * done + "╌" * (width - done) if width >= 8 else ""


def _say(text: str) -> None:
    err.print(text, highlight=False, markup=False, soft_wrap=True)
