"""The live display of a run, on standard error and only on a terminal."""

from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from heliostat.console import err, numbers


class Display:
    """A bar with the step, the loss, the speed and the time left; a line for each evaluation above it."""

    def __init__(self, plan: Any) -> None:
        self._plan = plan
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
        """Ray is there; say where to look."""
        if err.is_terminal:
            there = "goes on in" if self._plan.folder.exists("checkpoints") else "in"
            err.print(f"{self._plan.config.name} {there} {self._plan.uri}", highlight=False)
            err.print(f"Ray's dashboard is {dashboard} (its token is in ~/.heliostat/ray-token)", highlight=False)
        self._progress.update(self._bar, description="starting workers", total=self._plan.total_steps)

    def update(self, records: list[dict[str, Any]]) -> None:
        """New records of ``metrics.jsonl``."""
        for record in records:
            step = record["step"]
            if record["kind"] == "train":
                loss = f"loss {record['loss']:.4f}  {record['samples_per_second']:,.0f} samples/s"
                self._progress.update(self._bar, completed=step, loss=loss, description="training")
            elif err.is_terminal:
                self._progress.print(f"step {step:>6}  validation  {numbers(record['metrics'])}", highlight=False)
