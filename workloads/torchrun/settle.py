"""What a process waits for before Python ends."""

import time
from pathlib import Path

LIMIT = 10.0
"""Seconds of this process's CPU time after which Python ends in any case; a busy machine does not spend them."""


def settle() -> None:
    """Waits until the threads of Gloo have let go of their last tensors.

    A collective operation is done a moment before its thread releases the tensors, for which it needs Python's lock if Python
    knows them. If that moment falls into Python's end, as on a busy machine, the process is aborted: "terminate called without
    an active exception" (torch 2.15, pytorch/pytorch#179291).
    """
    end, idle = time.process_time() + LIMIT, 0
    while idle < 2 and time.process_time() < end:  # twice: one that waited for the lock has it meanwhile
        time.sleep(0.001)
        idle = 0 if _working() else idle + 1


def _working() -> bool:
    """Whether a thread of Gloo can run, by Linux's own account; elsewhere none is known."""
    for thread in Path("/proc/self/task").glob("*/stat"):
        try:
            name, _, rest = thread.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has ended
            continue
        if "gloo" in name and rest.split()[0] == "R":
            return True
    return False
