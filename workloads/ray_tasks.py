"""Work in tasks of Ray, many items in parallel or one as a whole; tasks that are lost with their node are repeated."""

import io
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any, ParamSpec, TypeVar

from heliostat.errors import HeliostatError, JobFailed
from heliostat.modules import enter_working_dir

A = TypeVar("A")
B = TypeVar("B")
P = ParamSpec("P")
RETRIES = 3
"""How often a task is repeated whose worker or node is lost."""


def cpus() -> int:
    """The CPUs that the connected cluster has at present."""
    import ray

    return int(ray.cluster_resources().get("CPU", 0))


def in_tasks(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """The results for some items in their order, computed by two tasks ahead for each CPU, so that few results wait.

    Args:
        function: sent once to each node, by pickle.
        items: sent with their tasks.

    Raises:
        HeliostatError: a task raised it.
        JobFailed: a task failed otherwise.
    """
    import ray

    remote = ray.remote(_call).options(num_cpus=1, max_retries=RETRIES)
    shared, ahead, waiting = ray.put(function), 2 * max(1, cpus()), deque[Any]()
    try:
        with task_errors("a section of the data could not be read"):
            for item in items:
                waiting.append(remote.remote(shared, item, os.getcwd()))
                if len(waiting) > ahead:
                    yield ray.get(waiting.popleft())
            while waiting:
                yield ray.get(waiting.popleft())
    finally:
        for task in waiting:
            ray.cancel(task)


def in_task(what: str, gpus: float, function: Callable[P, B], *args: P.args, **kwargs: P.kwargs) -> B:
    """What a function returns, computed in one task with a CPU. What it prints to standard error is printed here at its end.

    Args:
        what: what a message says if the task fails.
        gpus: that it has.
        function: sent by pickle, as its arguments are.
        *args: of the function.
        **kwargs: of the function.

    Raises:
        HeliostatError: the function raised it.
        JobFailed: the task failed otherwise.
    """
    import ray

    with task_errors(what):
        task = ray.remote(_call).options(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)
        said, error, result = ray.get(task.remote(lambda _: _heard(lambda: function(*args, **kwargs)), None, os.getcwd()))
    sys.stderr.write(said)
    if error:
        raise error
    found: B = result
    return found


@contextmanager
def task_errors(what: str) -> Iterator[None]:
    """Raise the error that a task raised, if it is one of ours, else JobFailed with its traceback."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HeliostatError):
            raise error.cause from None
        raise JobFailed(f"{what}:\n{error}") from None


def _heard(function: Callable[[], B]) -> tuple[str, HeliostatError | None, B | None]:
    """What a function prints to standard error, the error that it raises, if it is one of ours, and what it returns."""
    with redirect_stderr(io.StringIO()) as said:
        try:
            error, result = None, function()
        except HeliostatError as raised:
            error, result = raised, None
    return said.getvalue(), error, result


def _call(function: Callable[[A], B], item: A, working_dir: str) -> B:
    enter_working_dir(working_dir)
    return function(item)
