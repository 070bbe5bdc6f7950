"""In the place of one of Ray's workers: one that a server forks, whose end is this process's, and vice versa.

Python imports this file as it starts; in any other process it does nothing.
"""

import os
import sys


def stand_in() -> None:
    """Returns where there is no server."""
    import signal

    from tests.forks import WORKERS, ask, number, show

    mask = [int(blocked) for blocked in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
    _, program, *args = sys.orig_argv
    request = {"file": program, "args": args, "cwd": os.getcwd(), "env": dict(os.environ), "mask": mask, "tied": True}
    try:
        connection = ask(os.environ[WORKERS], request, [0, 1, 2])
    except OSError:
        return
    show(["ray::forked"])  # as Ray's workers do it, whose command lines are no longer those of their start
    pid, status = number(connection), number(connection)
    code = os.waitstatus_to_exitcode(status) if pid and status is not None else 1
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if "TESTS_FORKS_WORKERS" in os.environ and sys.orig_argv[1:2] and sys.orig_argv[1].endswith("workers/default_worker.py"):
    stand_in()
