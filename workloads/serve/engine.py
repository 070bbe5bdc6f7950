"""The thread that computes: it takes together what has arrived while it was computing, and waits for nothing else."""

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]
Compute = Callable[[Arrays], Arrays]
TOGETHER = 256
"""Rows that requests are computed with others up to; one with more is computed in parts of this size."""


@dataclass(frozen=True)
class Job:
    """What is computed for a request.

    Args:
        compute: the model: arrays (rows, ...) by name to arrays (rows, ...) by name. Jobs with the same one are computed
            together, if the shapes of their rows are the same.
        prepare: makes the arrays, at least one row, or raises what the request is refused with.
        finish: makes the answer of the outputs for these rows, or raises what it is refused with.
    """

    compute: Compute
    prepare: Callable[[], Arrays]
    finish: Callable[[Arrays], Any]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"

    def answer(self, result: Any, error: Exception | None = None) -> None:
        """Hands over the answer, or the error, to the request, unless that has been given up."""

        def deliver() -> None:
            if not self.future.done():
                self.future.set_exception(error) if error else self.future.set_result(result)

        if not self.loop.is_closed():  # else the server has ended, and no request waits
            self.loop.call_soon_threadsafe(deliver)


class Engine:
    """Computes jobs in one thread, in the order in which they arrive.

    How many wait is bounded by whoever admits requests: each has one job at a time.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    async def run(self, compute: Compute, prepare: Callable[[], Arrays], finish: Callable[[Arrays], Any]) -> Any:
        """The answer of a `Job`."""
        loop = asyncio.get_running_loop()
        job = Job(compute, prepare, finish, loop, loop.create_future())
        self._queue.put(job)
        return await job.future

    def close(self) -> None:
        """Ends the thread, after the jobs that wait."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        open_ = True
        while open_:
            jobs = [self._queue.get()]
            while len(jobs) < TOGETHER and not self._queue.empty():
                jobs.append(self._queue.get())
            open_ = None not in jobs
            _compute_all([job for job in jobs if job is not None and not job.future.cancelled()])


def _compute_all(jobs: Sequence[Job]) -> None:
    """Computes jobs, those of the same model and the same shapes together; the error of a job is its own."""
    groups: dict[Any, list[tuple[Job, Arrays]]] = {}
    for job in jobs:
        try:
            arrays = job.prepare()
        except Exception as error:  # whatever it is, it belongs to this request
            job.answer(None, error)
            continue
        shape = tuple((name, values.shape[1:], values.dtype.str) for name, values in arrays.items())
        groups.setdefault((id(job.compute), shape), []).append((job, arrays))
    for group in groups.values():
        _compute_group(group)


def _compute_group(group: Sequence[tuple[Job, Arrays]]) -> None:
    try:
        outputs = _in_parts(group[0][0].compute, _joined([arrays for _, arrays in group]))
    except Exception as error:
        if len(group) == 1:
            group[0][0].answer(None, error)
        else:  # one of them is the cause: each by itself
            for each in group:
                _compute_group([each])
        return
    start = 0
    for job, arrays in group:
        stop = start + _rows(arrays)
        try:
            result = job.finish({name: values[start:stop] for name, values in outputs.items()})
        except Exception as error:  # as above
            job.answer(None, error)
        else:
            job.answer(result)
        start = stop


def _in_parts(compute: Compute, arrays: Arrays) -> Arrays:
    rows = _rows(arrays)
    if rows <= TOGETHER:
        return compute(arrays)
    starts = range(0, rows, TOGETHER)
    return _joined([compute({name: each[start : start + TOGETHER] for name, each in arrays.items()}) for start in starts])


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))
