"""Runs a sweep from its plan to its result, on the Ray that this process is connected to."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from heliostat.console import err
from heliostat.errors import JobFailed, Stopped
from heliostat.folder import Folder, absolute, expanded, join
from heliostat.interrupts import interrupts
from heliostat.retry import UNAVAILABLE
from heliostat.tuning.config import Mode, SweepConfig, base_of
from heliostat.tuning.controller import Controller, Watch
from heliostat.tuning.journal import open_journal, read_journal
from heliostat.tuning.monitored import SWEEP, samples
from heliostat.tuning.plan import RecordMaker, SweepPlan, plan_sweep
from heliostat.tuning.record import read_sweep
from heliostat.tuning.results.report import write_report
from heliostat.tuning.results.table import REPORT, SweepResult, failed_because, result_of
from heliostat.tuning.results.write import write_result, write_so_far
from heliostat.tuning.trials import Trials
from heliostat.workloads.nodes import available
from heliostat.workloads.ray_train.client import head_storage_base, run_on_head
from heliostat.workloads.ray_train.gauges import exported
from heliostat.workloads.run import lease
from heliostat.workloads.run.journal import Journal
from heliostat.workloads.run.redraw import Redraw, draw
from heliostat.workloads.run.writer import LINGER
from heliostat.workloads.tracking.driver import tracked

T = TypeVar("T")


def sweep_on_head(config: SweepConfig, watch: Callable[[tuple[dict[str, Mode], Trials]], None] | None = None) -> SweepResult:
    """Run a sweep on the cluster of a Ray Client session; it is driven from its head, and does not depend on this process.

    Args:
        config: of the sweep.
        watch: called with the objectives and the trials, once a second.

    Raises:
        UserError: the input is wrong.
        JobFailed: no trial succeeded.
        Stopped: it was stopped; the same call resumes it.
    """
    return SweepResult.model_validate(run_on_head(_drive, config, watch and (_Reader, watch)))


def drive(plan: SweepPlan, watch: Watch = lambda trials: None) -> SweepResult:
    """Carry out a plan, or resume it where an earlier call was stopped or killed.

    Raises:
        UserError: another sweep has the name, another process drives the sweep, or storage cannot be written.
        JobFailed: no trial succeeded; the message has the most frequent cause.
        Stopped: it was stopped; each running trial has saved a checkpoint.
    """
    with lease.hold(plan.folder) as owner:
        maker, config = plan.commit(), plan.config
        reported = tracked(
            plan.uri, config.name, config.tracking or [], config.notify or [], owner,
            partial(_summary, plan),
        )  # fmt: skip
        with reported:
            return _carry_out(plan, maker, owner, watch)


def _summary(plan: SweepPlan) -> dict[str, Any]:
    """What a notification says of a sweep that has ended."""
    result = result_of(plan.config, plan.uri, plan.objectives, Trials(read_journal(plan.folder.once)), "")
    found = result.model_dump(include={"best", "params", "states", "cost", "seconds"})
    return {**found, "metrics": result.values, "report": join(str(plan.folder), REPORT)}


def _carry_out(plan: SweepPlan, maker: RecordMaker, owner: lease.Lease, watch: Watch) -> SweepResult:
    journal = open_journal(plan.folder, _delayed)
    try:
        trials, stopped = _run(plan, maker, journal, owner, watch)
    except BaseException:
        if not owner.lost:
            draw(partial(write_so_far, plan, "interrupted", once=True), plan.uri)
        raise
    if owner.lost:
        raise lease.taken_over(plan.folder, owner)
    result = result_of(plan.config, plan.uri, plan.objectives, trials, stopped)
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
            with exported(SWEEP, lambda: samples(plan.config.name, plan.objectives, controller.trials)):
                return controller.trials, await controller.run(asked)

        try:
            trials, stopped = _awaited(work())
            if not owner.lost and stopped != "interrupted":  # else `close` waits, for a short time
                timeout = plan.train.patience
                plan.folder.for_work(timeout).retried(partial(journal.flush, timeout))
        finally:
            journal.close(0.0 if owner.lost else LINGER)
            report.close()
    return trials, stopped


def _awaited(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine; in a notebook, whose thread has a running event loop, from a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, "sweep") as thread:
        return thread.submit(copy_context().run, asyncio.run, work).result()


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


class _Reader:
    """Reads the trials of a sweep on the head, for a Ray Client session."""

    def __init__(self, config: dict[str, Any]) -> None:
        sweep = SweepConfig.model_validate(config)
        storage = sweep.storage or base_of(sweep).get("storage") or "runs"
        self._folder = Folder.at(absolute(expanded(storage, key="storage"), head_storage_base())) / sweep.name

    def new(self) -> tuple[dict[str, Mode], Trials] | None:
        """The objectives and all trials so far; None while they cannot be read."""
        try:
            record = read_sweep(self._folder)
            return (record.objectives, Trials(read_journal(self._folder))) if record else None
        except UNAVAILABLE:
            return None
