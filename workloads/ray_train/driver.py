"""Executes the plan of a run on Ray Train, and returns its result."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from heliostat.errors import Diverged, Stopped
from heliostat.folder import Folder
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.plan import Plan
from heliostat.workloads.ray_train.fit import fit_on_ray
from heliostat.workloads.ray_train.here import fit_here
from heliostat.workloads.ray_train.records import Watch
from heliostat.workloads.run import lease
from heliostat.workloads.run.cost import cost
from heliostat.workloads.run.goodput import goodput
from heliostat.workloads.run.record import REPORT, RESULT, Result, RunRecord
from heliostat.workloads.run.redraw import Redraw, draw
from heliostat.workloads.run.report import write_report
from heliostat.workloads.run.so_far import result_of
from heliostat.workloads.tracking.driver import tracked

Fitting = Callable[[Plan, dict[str, Any], lease.Lease, Watch], dict[str, Any]]


def execute(
    plan: Plan,
    record: RunRecord,
    launched: float,
    owner: lease.Lease,
    watch: Watch = lambda records: None,
    here: bool = False,
    trial: bool = False,
) -> Result:
    """Executes a plan on the connected Ray, or in this process.

    Args:
        plan: what to run.
        record: the run's, see `Plan.claim`.
        launched: when the command started, in seconds since the epoch.
        owner: this driver's lease on the run folder, see `Plan.claim`.
        watch: called with new records.
        here: in this process, with one worker and without Ray.
        trial: whether it belongs to a sweep, whose trials measure their ``seconds``.

    Raises:
        UserError: storage cannot be written or is not shared.
        Diverged: the loss, the gradient or a weight became NaN or infinite.
        JobFailed: the training failed.
        Stopped: it was stopped, with a checkpoint.
    """
    config = plan.config
    with tracked(plan.uri, config.name, config.tracking, config.notify, owner, partial(_summary, plan)):
        return _execute(plan, record, launched, owner, watch, fit_here if here else partial(fit_on_ray, trial=trial), trial)


def _summary(plan: Plan) -> dict[str, Any]:
    """What a notification says of a run that has ended."""
    result = result_of(plan.folder.once, running=False)
    report = result.report if plan.folder.once.exists(REPORT) else None  # a run that failed early has none
    return {**result.model_dump(include={"metrics", "step", "cost", "seconds"}), "report": report}


def _execute(
    plan: Plan, record: RunRecord, launched: float, owner: lease.Lease, watch: Watch, fit: Fitting, trial: bool
) -> Result:
    spec = {
        "run": plan.uri,
        "record": record.model_dump(mode="json"),
        "launched": launched,
        "lease": owner.id,
        "nodes": plan.nodes,
        "working_dir": str(Path.cwd()),
    }
    started = time.time()
    folder = plan.folder.for_work(plan.patience)
    report = partial(_write_report, folder, record)
    with _drawing(plan, record, owner, watch) as seen:
        outcome = fit(plan, spec, owner, seen)
    trained = time.time()
    result = Result(
        name=plan.config.name,
        run=str(plan.folder),
        seconds={"before": started - launched, "training": trained - started},
        **outcome,
    )
    if result.state == "lost":
        raise lease.taken_over(plan.folder, owner)
    if result.state == "finished":
        went = {kind: round(value, 2) for kind, value in goodput(folder).worker_seconds.items() if value}
        seconds = {k: round(v, 2) for k, v in {**result.seconds, "total": time.time() - launched}.items()}
        result = result.model_copy(update={"cost": cost(folder), "seconds": seconds, "goodput": went})
        # With the result, as whoever is killed after it does not measure again.
        result = measured(result, launched) if trial else result
        folder.write(RESULT, result.model_dump_json(indent=2).encode())
    draw(report, plan.uri)
    if result.state == "diverged":
        raise Diverged(result.message, _advice(plan.config), result.step, result.epoch)
    if result.state == "stopped":
        saved = f"with a checkpoint in {result.run}" if result.step else "before the first step"
        raise Stopped(f"stopped at step {result.step} {saved}\n  the same command resumes from there")
    return result


def measured(result: Result, launched: float) -> Result:
    """The result of a sweep's trial with its ``seconds`` since it was launched, by which trials can be compared."""
    seconds = round(time.time() - launched, 3)
    return result.model_copy(update={"metrics": {**result.metrics, "trial": {"seconds": seconds}}})


@contextmanager
def _drawing(plan: Plan, record: RunRecord, owner: lease.Lease, watch: Watch) -> Iterator[Watch]:
    """Yields ``watch``, which now also draws the report after evaluations; a block that fails draws it once more."""
    redraw, last = Redraw(partial(_write_report, plan.folder, record, running=True), plan.uri), plan.total_steps

    def seen(records: list[dict[str, Any]]) -> None:
        # After the last evaluation it is drawn at the end.
        redraw.poll(any(found.get("kind") == "eval" and found["step"] != last for found in records))
        watch(records)

    try:
        try:
            yield seen
        finally:
            redraw.close()
    except BaseException:
        if not owner.lost:
            # In one attempt: the storage may be why it failed, and a command that is stopped must not wait.
            draw(partial(_write_report, plan.folder.once, record), plan.uri)
        raise


def _write_report(folder: Folder, record: RunRecord, running: bool = False) -> None:
    result = result_of(folder, running)
    if result.metrics or result.step:
        write_report(folder, record, result)


def _advice(config: TrainConfig) -> str:
    """What to try after a run has diverged."""
    if config.by_rounds:
        return "look for infinite or very large targets in the data"
    return (
        f"try another name with a smaller learning rate (--set name={config.name}-2 "
        f"--set optimizer.lr={config.optimizer.lr / 10:g}), more warm-up steps, or a smaller optimizer.clip_norm"
    )
