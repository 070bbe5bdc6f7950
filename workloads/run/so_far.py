"""The result of a run so far, from its journals: for the report and the list of runs that have not finished."""

from collections.abc import Callable

from heliostat.folder import Folder
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.chunks import Record
from heliostat.workloads.run.cost import cost_of
from heliostat.workloads.run.goodput import account
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.lease import Observer
from heliostat.workloads.run.record import EVENTS, METRICS, Result, read_result

Read = Callable[[Folder, str], list[Record]]


def result_of(folder: Folder, running: bool | None = None, read: Read = read_journal) -> Result:
    """The result of a run, also of an unfinished one: its last step and evaluation, its time, goodput and cost.

    Args:
        folder: of the run.
        running: whether its driver is alive; by default its lease decides.
        read: reads its journals.

    Raises:
        UserError: ``result.json`` cannot be read.
    """
    if found := read_result(folder):
        return found
    attempts, events, metrics = (read(folder, name) for name in (ATTEMPTS, EVENTS, METRICS))
    running = Observer(folder).is_driven() if running is None else running
    goodput = account(attempts, events, metrics)
    evaluated = next((record for record in reversed(metrics) if record["kind"] == "eval"), None)
    return Result(
        name=folder.name,
        run=str(folder),
        state="running" if running else _ended(attempts, events),  # type: ignore[arg-type]
        step=max((record["step"] for record in [*events, *metrics]), default=0),
        epoch=max((record.get("epoch", 0) for record in metrics), default=0),
        metrics={"validation": evaluated["metrics"]} if evaluated else {},
        seconds={"total": round(sum(span.end - span.begin for span in goodput.spans if span.kind != "idle"), 2)},
        goodput={kind: round(value, 2) for kind, value in goodput.worker_seconds.items() if value},
        cost=cost_of(attempts, events, metrics),
    )


def _ended(attempts: list[Record], events: list[Record]) -> str:
    """How the last command of a run without a result ended."""
    last = events[-1]["event"] if events else ""
    if last in ("stopped", "diverged"):
        return last
    if attempts and attempts[-1].get("state") == "stopped":
        return "stopped"
    outcome = [record for record in attempts if record["event"] in ("launched", "failed", "running")]
    return "failed" if outcome and outcome[-1]["event"] == "failed" and not outcome[-1]["again"] else "interrupted"
