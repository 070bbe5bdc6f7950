"""Bounds the time and the memory of a try, in this process."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

SECONDS = 20.0
"""After so long a try ends at the next call of a layer, undecided."""
CALLS = 4
"""The calls of the model after which a prediction ends, such as a text that is generated token by token."""
MEMORY = 0.8
"""The share of the free memory that a try may use."""


class Undecided(BaseException):
    """Ends a try; no Exception, which the user's code might catch. The message says why."""


@contextmanager
def limited_time(model: nn.Module | None = None) -> Iterator[None]:
    """Ends a block after `SECONDS` at the next call of a layer, and with a model after `CALLS` calls of that."""
    deadline, calls = time.monotonic() + SECONDS, 0

    def check(module: nn.Module, given: Any) -> None:
        nonlocal calls
        calls += module is model
        if calls > CALLS:
            raise Undecided("enough")
        if time.monotonic() > deadline:
            raise Undecided(f"it took more than {SECONDS:g} s on this CPU")

    hook = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def limited_memory() -> Iterator[None]:
    """Lets allocations fail before the memory of this machine, or of its container, is exhausted (on Linux).

    The head of a cluster, on which this may run, can be far smaller than its GPU nodes: a large model must not end it.
    """
    if sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status").read_text()
    used = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmData"))) << 10
    most = used + int(MEMORY * _free_memory())
    lower = most if before[0] == resource.RLIM_INFINITY else min(before[0], most)
    resource.setrlimit(resource.RLIMIT_DATA, (lower, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _free_memory() -> int:
    """The free memory of this machine or container, in bytes."""
    free = int(psutil.virtual_memory().available)
    limit, used = (Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current"))
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        stat = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        free = min(free, int(text) - int(used.read_text()) + int(stat["inactive_file"]))
    return max(free, 0)
