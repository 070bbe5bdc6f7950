"""The actor that runs one-worker trials, one after the other; the training loop runs in a thread.

`Worker.start` starts a trial and `Worker.decide` answers its last report; both return the next event: a report, or the end.
So a trial that must stop has stopped when the call returns, and its resources are free for the next one.
"""

import gc
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
import torch

from heliostat.datasets import Dataset
from heliostat.errors import HeliostatError, UserError, short_traceback
from heliostat.folder import Folder
from heliostat.modules import enter_working_dir
from heliostat.requirements import provide
from heliostat.tuning.journal import plain
from heliostat.tuning.trials import Decision
from heliostat.workloads.nodes import group_here
from heliostat.workloads.run.output import recorded_output
from heliostat.workloads.run.record import RESULT, DatasetRecord, Result, RunRecord, keep_index, read_result, write_record
from heliostat.workloads.training.distributed import Ranks, check_gpu
from heliostat.workloads.training.loop import Loop

Event = dict[str, Any]


class Ended(Exception):
    """Unwinds the training loop at a report."""


class Worker:
    """The worker of one slot of a sweep, reused from trial to trial."""

    def __init__(self, working_dir: str) -> None:
        enter_working_dir(working_dir)
        self._frozen = False
        self._opened: tuple[DatasetRecord, Dataset] | None = None
        self._work: queue.SimpleQueue[Callable[[], Event]] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._decisions: queue.SimpleQueue[Decision] = queue.SimpleQueue()
        self._printed: list[str] = []
        """Lines that the trial has printed since the last event."""
        # One thread for all trials: OpenMP keeps a pool for each thread that has used it.
        threading.Thread(target=self._run, name="trials", daemon=True).start()

    def placement(self) -> dict[str, str]:
        """The node of this actor and its worker group."""
        return {"node": ray.get_runtime_context().get_node_id(), "group": group_here()}

    def start(self, run: str, record: dict[str, Any], launched: float) -> Event:
        """Start or resume the trial whose run folder is at ``run``, and return its first event."""
        self._work.put(partial(self._trial, run, record, launched))
        return self._next_event()

    def decide(self, decision: Decision) -> Event:
        """Answer the last report and return the next event."""
        self._decisions.put(decision)
        return self._next_event()

    def _next_event(self) -> Event:
        event = self._events.get()
        lines, self._printed = self._printed, []
        return {**event, "printed": lines}

    def _run(self) -> None:
        while True:
            self._events.put(self._work.get()())

    def _trial(self, run: str, record: dict[str, Any], launched: float) -> Event:
        try:
            parsed = RunRecord.model_validate(record)
            timeout = parsed.config.storage_timeout
            folder = Folder.at(run, timeout).for_work(timeout)
            with recorded_output(folder, 0, lambda line: self._printed.append(line)):
                return self._train(folder, parsed, launched)
        except UserError as error:
            return {"event": "fail", "message": str(error), "final": True}
        except HeliostatError as error:
            return {"event": "fail", "message": str(error), "final": False}
        # Any failure of the user's task goes into the table, and the other trials continue; sys.exit in it would end only this
        # thread, without a word, and the sweep would wait for its event for ever.
        except (Exception, SystemExit) as error:
            return {"event": "fail", "message": short_traceback(error), "final": False}
        finally:
            self._collect_garbage()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _collect_garbage(self) -> None:
        """Free the model of a trial, which is in reference cycles, before the next one needs the memory."""
        gc.collect()
        if not self._frozen:
            # Traversing what torch has loaded takes 0.1 s each time, and none of it is ever freed.
            gc.freeze()
            self._frozen = True

    def _dataset(self, record: DatasetRecord, patience: float) -> Dataset:
        """The dataset of a trial; that of the last trial is kept open, as most trials have the same one."""
        if self._opened is None or self._opened[0] != record:
            self._opened = record, Dataset.open(record.uri, patience)
        return self._opened[1]

    def _train(self, folder: Folder, record: RunRecord, launched: float) -> Event:
        if result := read_result(folder):
            # The trial is done, but the driver was killed before it wrote that to the journal.
            return _end(result)
        dataset = self._dataset(record.dataset, folder.patience)
        keep_index(folder, dataset)
        write_record(folder, record)
        provide(record.config.requirements, install=True)
        if record.config.resources.gpu:
            check_gpu()
        ranks = Ranks.of_this_process(cuda=record.config.resources.gpu != 0)
        decision = Decision.CONTINUE

        def report(metrics: dict[str, float]) -> None:
            nonlocal decision
            step = loop.progress.step
            self._events.put({"event": "report", "step": step, "progress": step / loop.total_steps, "metrics": plain(metrics)})
            decision = self._decisions.get()
            if decision == Decision.PAUSE:
                loop.save(metrics, wait=True)
            if decision != Decision.CONTINUE and step < loop.total_steps:
                raise Ended

        started = time.time()
        loop = Loop(folder, record, ranks, launched, report, dataset=dataset)
        parameters = sum(parameter.numel() for parameter in loop.model.parameters())
        try:
            outcome = loop.run()
        except Ended:
            if decision == Decision.PAUSE:
                return {"event": "pause"}
            loop.callbacks.on_end("stopped", {})
            epoch = loop.order.locate(loop.progress.consumed)[0]
            result = Result(name=record.config.name, run=str(folder), state="stopped", step=loop.progress.step, epoch=epoch)
        else:
            if outcome.state not in ("finished", "diverged"):
                return {"event": "pause"}  # requested by a file in its folder
            result = Result(name=record.config.name, run=str(folder), **outcome.model_dump())
        measured = {"seconds": round(time.time() - started, 3), "parameters": float(parameters)}
        result = result.model_copy(update={"metrics": {**result.metrics, "trial": measured}})
        folder.write(RESULT, result.model_dump_json(indent=2).encode())
        return _end(result)


def _end(result: Result) -> Event:
    return {
        "event": "end",
        "state": result.state,
        "step": result.step,
        "metrics": result.metrics,
        "message": result.message,
    }
