"""In the place of one of Ray's workers: one that a server forks, whose end is this process's, and vice versa.

Python imports this file as it starts. In a rank of a script for torchrun it keeps an error of PyTorch out of the tests, see
`heliostat.workloads.torchrun.settle`, with which a script that imports ``heliostat.torchrun`` is safe; in any other process it
does nothing.
"""

import atexit
import os
import sys
from pathlib import Path


def stand_in() -> None:
    """Returns where there is no server."""
    import signal

    sys.path.insert(0, str(Path(__file__).parents[3]))
    from tests.forks import WORKERS, ask, number, show

    del sys.path[0]
    mask = [int(blocked) for blocked in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
    _, program, *args = sys.orig_argv
    request = {"file": program, "args": args, "cwd": os.getcwd(), "env": dict(os.environ), "mask": mask, "tied": True}
    try:
        connection = ask(os.environ[WORKERS], request, [0, 1, 2])
    except OSError:
        return
    code = 1
    try:
        show(["ray::forked"])  # as Ray's workers do it, whose command lines are no longer those of their start
        pid, status = number(connection), number(connection)
        if pid and status is not None:
            code = os.waitstatus_to_exitcode(status)
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
    finally:
        os._exit(code)  # never the worker itself besides


if "TESTS_FORKS_WORKERS" in os.environ and sys.orig_argv[1:2] and sys.orig_argv[1].endswith("workers/default_worker.py"):
    stand_in()


def settle() -> None:
    import runpy

    runpy.run_path(str(Path(__file__).parents[3] / "workloads/torchrun/settle.py"))["settle"]()


if "TORCHELASTIC_RUN_ID" in os.environ:
    atexit.register(settle)
