"""Runs a sweep from its plan to its result, on the Ray that this process is connected to."""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray

from heliostat.config import as_config
from heliostat.console import err
from heliostat.errors import JobFailed, Stopped, UserError
from heliostat.interrupts import interrupts
from heliostat.tuning.config import SweepConfig
from heliostat.tuning.controller import Controller, Watch
from heliostat.tuning.journal import open_journal, read_journal
from heliostat.tuning.plan import RecordMaker, SweepPlan, plan_sweep, read_sweep
from heliostat.tuning.results.report import write_report
from heliostat.tuning.results.table import SweepResult, failed_because, result_of
from heliostat.tuning.results.write import write_result, write_so_far
from heliostat.tuning.trials import Trials
from heliostat.workloads.nodes import available
from heliostat.workloads.ray_train.client import head_storage_base, run_on_head
from heliostat.workloads.run import lease
from heliostat.workloads.run.journal import Journal
from heliostat.workloads.run.redraw import Redraw, draw
from heliostat.workloads.run.writer import LINGER


def sweep(config: str | Path | Mapping[str, Any] | SweepConfig, overrides: Iterable[str] = ()) -> SweepResult:
    """Run a sweep on the Ray that this process is connected to, and return its result.

    Works after ``ray.init()``, ``ray.init("auto")`` and ``ray.init("ray://...")``; with Ray Client the sweep is driven from
    the cluster's head, so that it does not depend on this process.

    Args:
        config: a config file, a dictionary with its keys, or a config.
        overrides: ``dotted.key=value``, as with ``--set``.

    Raises:
        UserError: the input is wrong, or Ray is not connected.
        JobFailed: no trial succeeded.
        Stopped: it was stopped; the same call resumes it.
    """
    if not ray.is_initialized():
        raise UserError("Ray is not connected", 'call ray.init("ray://HOST:10001") or ray.init() first, or use heliostat sweep')
    config = as_config(config, SweepConfig, overrides, suffix="-sweep")
    if ray.util.client.ray.is_connected():
        return SweepResult.model_validate(run_on_head(_drive, config))
    return drive(plan_sweep(config, available()))


def drive(plan: SweepPlan, watch: Watch = lambda trials: None) -> SweepResult:
    """Carry out a plan, or resume it where an earlier call was stopped or killed.

    Raises:
        UserError: another sweep has the name, another process drives the sweep, or storage cannot be written.
        JobFailed: no trial succeeded; the message has the most frequent cause.
        Stopped: it was stopped; each running trial has saved a checkpoint.
    """
    with lease.hold(plan.folder) as owner:
        maker = plan.commit()
        journal = open_journal(plan.folder, _delayed)
        try:
            trials, stopped = _run(plan, maker, journal, owner, watch)
        except BaseException:
            if not owner.lost:
                draw(partial(write_so_far, plan, "interrupted", once=True), plan.uri)
            raise
    result = result_of(plan, trials, stopped)
    if stopped == "interrupted":
        draw(partial(write_so_far, plan, stopped, once=True), plan.uri)
        counts = ", ".join(f"{count} {state}" for state, count in sorted(trials.states().items()))
        raise Stopped(f"stopped with {counts}\n  the same command resumes the sweep")
    write_result(plan, trials, result)
    draw(partial(write_report, plan.folder, plan, trials, result), plan.uri)
    over = [trial for trial in trials.all if trial.done]
    if over and all(trial.state in ("failed", "diverged") for trial in over):
        raise JobFailed(failed_because(over))
    return result


def _run(plan: SweepPlan, maker: RecordMaker, journal: Journal, owner: lease.Lease, watch: Watch) -> tuple[Trials, str]:
    """Run the trials that are left; returns all trials, and why the sweep stopped, see `Controller.run`."""
    report = Redraw(partial(write_so_far, plan), plan.uri)
    drawn = 0

    def progress(trials: Trials) -> None:
        nonlocal drawn
        before, drawn = drawn, sum(len(trial.reports) + trial.done for trial in trials.all)
        report.poll(drawn != before)
        watch(trials)

    with interrupts() as received:

        def asked() -> int:
            return 2 if owner.lost else len(received)

        async def work() -> tuple[Trials, str]:
            controller = Controller(plan, maker, journal, progress)
            return controller.trials, await controller.run(asked)

        try:
            trials, stopped = asyncio.run(work())
            if not owner.lost and stopped != "interrupted":  # else `close` waits, for a short time
                timeout = plan.train.patience
                plan.folder.for_work(timeout).retried(partial(journal.flush, timeout))
        finally:
            journal.close(0.0 if owner.lost else LINGER)
            report.close()
    return trials, stopped


def _delayed(error: str) -> None:
    text = f"{error}; the sweep continues, and its journal waits in memory until storage is back"
    err.print(text, highlight=False, markup=False, soft_wrap=True)


def finished(plan: SweepPlan) -> SweepResult | None:
    """The result of a sweep that has nothing left to do, or None."""
    record = read_sweep(plan.folder)
    if record is None or record.config.identity != plan.config.identity:
        return None
    trials = Trials(read_journal(plan.folder))
    result = SweepResult.read(plan.folder)
    wanted = plan.config.trials or len(trials.all)
    if (
        result is None
        or result.limits != plan.limits
        or any(not trial.done for trial in trials.all)
        or len(trials.all) < wanted
    ):
        return None
    return result.model_copy(update={"already": True})


def _drive(config: dict[str, Any]) -> dict[str, Any]:
    return drive(plan_sweep(SweepConfig.model_validate(config), available(), head_storage_base())).model_dump()
