"""Executors run the trials of a sweep: a reused actor for one worker, a Ray Train run of its own for more.

No trial holds resources while it waits for others, so sweeps cannot deadlock: an actor has its resources before it gets a
trial, and the workers of a Train run are gang-scheduled, while the thread that drives them holds no resources.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypedDict

import ray

from heliostat.console import err
from heliostat.datasets import Dataset
from heliostat.errors import Diverged, HeliostatError, Stopped, UserError, short_traceback
from heliostat.folder import Folder
from heliostat.tuning.journal import plain
from heliostat.tuning.plan import SweepPlan
from heliostat.tuning.trials import Decision
from heliostat.tuning.worker import Event, Worker
from heliostat.workloads.nodes import alive
from heliostat.workloads.plan import Plan
from heliostat.workloads.run import lease
from heliostat.workloads.run.cost import cost
from heliostat.workloads.run.record import RESULT, Result, RunRecord, keep_index, read_result, write_record
from heliostat.workloads.run.signals import STOP as STOP_FILE
from heliostat.workloads.run.so_far import result_of

Decide = Callable[[Event], Decision]
"""Called with each report of a trial."""


class Placement(TypedDict):
    """Where the worker of a slot runs."""

    node: str
    group: str | None
    """The worker group of the node; None if it is not known before a trial runs."""


class Executor(Protocol):
    """One slot of a sweep."""

    async def ready(self) -> Placement:
        """Wait until its resources are available."""

    async def run(self, plan: Plan, record: RunRecord, decide: Decide) -> Event:
        """Run a trial until it ends, pauses or fails, and return that event."""

    def close(self) -> None:
        """Release its resources."""


def open_executor(plan: SweepPlan) -> Executor:
    """A new slot of a sweep."""
    each = plan.train.config.resources
    return TrainExecutor() if plan.workers > 1 else ActorExecutor(float(each.cpu), float(each.gpu))


class ActorExecutor:
    """An actor that holds one worker's resources; it is replaced after it died or a trial failed in it."""

    def __init__(self, cpu: float, gpu: float) -> None:
        # With the same number of threads as a worker of `heliostat train`, floating-point sums are the same.
        options = {"num_cpus": cpu, "num_gpus": gpu, "max_restarts": 0}
        self._make = ray.remote(Worker).options(**options).remote
        self._actor: Any = None
        self._node = ""

    async def ready(self) -> Placement:
        if self._actor is None:
            self._actor = self._make(str(Path.cwd()))
        placement: Placement = await self._actor.placement.remote()
        self._node = placement["node"]
        return placement

    async def run(self, plan: Plan, record: RunRecord, decide: Decide) -> Event:
        try:
            event: Event = await self._actor.start.remote(plan.uri, record.model_dump(mode="json"), time.time())
            _show(plan, event.pop("printed"))
            while event["event"] == "report":
                event = await self._actor.decide.remote(decide(event))
                _show(plan, event.pop("printed"))
        except ray.exceptions.RayActorError as error:
            self._actor = None
            # A node that went away is not the trial's fault. The control store counts it as dead before its actors (Ray 2.60).
            lost = error.preempted or self._node not in alive()
            return {"event": "fail", "message": f"its worker died: {_reason(error)}", "final": False, "lost": lost}
        if event["event"] == "fail":
            self.close()  # CUDA may be in a state in which the next trial would fail
        return event

    def close(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None


class TrainExecutor:
    """A Ray Train run for each trial, driven from a thread of this process; only its workers hold resources."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def ready(self) -> Placement:
        return {"node": "", "group": None}

    async def run(self, plan: Plan, record: RunRecord, decide: Decide) -> Event:
        # A daemon thread: asyncio would wait for one of its own when the loop closes.
        outcome: asyncio.Future[Event] = self._loop.create_future()

        def over(event: Event) -> None:
            if not outcome.done():
                outcome.set_result(event)

        def drive() -> None:
            try:
                event = self._drive(plan, record, decide)
            except Exception as error:  # of the storage, before or after the run
                message = str(error) if isinstance(error, HeliostatError) else short_traceback(error)
                event = {"event": "fail", "message": message, "final": isinstance(error, UserError)}
            with suppress(RuntimeError):  # the sweep has ended, and its event loop is closed
                self._loop.call_soon_threadsafe(over, event)

        threading.Thread(target=drive, name=f"trial {record.config.name}", daemon=True).start()
        return await outcome

    def close(self) -> None:
        """Nothing to release: it holds no resources between trials."""

    def _drive(self, plan: Plan, record: RunRecord, decide: Decide) -> Event:
        from heliostat.workloads.ray_train.driver import execute, measured

        folder = plan.folder.for_work(plan.patience)
        if result := read_result(folder):
            return _end(result, folder)
        keep_index(folder, Dataset.open(record.dataset.uri, plan.patience))
        write_record(folder, record)
        last = Decision.CONTINUE
        total = plan.total_steps or 1

        def watch(records: list[dict[str, Any]]) -> None:
            nonlocal last
            for found in records:
                if "printed" in found:
                    _show(plan, [found["printed"]])
                if found.get("kind") == "eval" and last == Decision.CONTINUE and found["step"] < total:
                    event = {"event": "report", "step": found["step"], "progress": found["step"] / total,
                             "metrics": plain(found["metrics"])}  # fmt: skip
                    last = asyncio.run_coroutine_threadsafe(_call(decide, event), self._loop).result()
                    if last != Decision.CONTINUE:
                        folder.write(STOP_FILE, b"")

        start = time.time()
        try:
            with lease.hold(plan.folder) as owner:
                # The sweep's driver tracks its trials, and says when it ends.
                alone = plan.config.model_copy(update={"tracking": [], "notify": []})
                return _end(execute(replace(plan, config=alone), record, start, owner, watch, trial=True), folder)
        except Stopped:
            if last != Decision.STOP:
                return {"event": "pause"}
            seen = result_of(folder, running=False)
            place = {"name": record.config.name, "run": str(plan.folder)}
            result = Result.model_validate({**place, "state": "stopped", "step": seen.step, "epoch": seen.epoch})
        except Diverged as error:
            place, end = {"name": record.config.name, "run": str(plan.folder)}, {"step": error.step, "epoch": error.epoch}
            result = Result.model_validate({**place, **end, "state": "diverged", "message": error.what})
        except UserError as error:
            return {"event": "fail", "message": str(error), "final": True}
        except HeliostatError as error:
            return {"event": "fail", "message": str(error), "final": False}
        except Exception as error:  # whatever Ray Train raises goes into the table, and the other trials continue
            return {"event": "fail", "message": short_traceback(error), "final": False}
        result = measured(result, start)
        folder.write(RESULT, result.model_dump_json(indent=2).encode())
        return _end(result, folder)


def _show(plan: Plan, lines: Iterable[str]) -> None:
    """Show what a trial has printed."""
    for line in lines:
        err.print(f"[trial {int(plan.config.name)}] {line}", soft_wrap=True)


async def _call(decide: Decide, event: Event) -> Decision:
    return decide(event)


def _end(result: Result, folder: Folder) -> Event:
    outcome = {"state": result.state, "step": result.step, "metrics": result.metrics, "message": result.message}
    return {"event": "end", **outcome, "cost": cost(folder)}


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "exit" in line.lower() or "died" in line.lower()), lines[0] if lines else "unknown")
