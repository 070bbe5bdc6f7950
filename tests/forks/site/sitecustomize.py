"""In the place of one of Ray's workers, or of a job's ``python -m heliostat``: one that a server forks.

Python imports this file as it starts; in any other process it does nothing. The end of this process is the end of the other
one, and vice versa.
"""

import os
import sys
from pathlib import Path


def wanted() -> dict[str, object]:
    """What this process was started as; empty where it is itself."""
    words = sys.orig_argv[1:]
    if words and words[0].endswith("workers/default_worker.py"):
        return {"file": words[0], "args": words[1:]}
    safe = words[:1] == ["-P"]
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and words[safe : safe + 2] == ["-m", "heliostat"]:
        return {"module": "heliostat", "args": words[safe + 2 :], "safe": safe}
    return {}


def stand_in(what: dict[str, object]) -> None:
    """Returns where there is no server."""
    import signal

    sys.path.insert(0, str(Path(__file__).parents[3]))
    from tests.forks import WORKERS, ask, number, show

    del sys.path[0]
    mask = [int(blocked) for blocked in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
    request = {**what, "cwd": os.getcwd(), "env": dict(os.environ), "mask": mask, "tied": True}
    try:
        connection = ask(os.environ[WORKERS], request, [0, 1, 2])
    except OSError:
        return
    show(["ray::forked"])  # as Ray's workers do it, whose command lines are no longer those of their start
    if pid := number(connection):
        for forwarded in (signal.SIGINT, signal.SIGTERM):
            signal.signal(forwarded, lambda number, _: os.kill(pid, number))
    status = number(connection)
    code = os.waitstatus_to_exitcode(status) if pid and status is not None else 1
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if "TESTS_FORKS_WORKERS" in os.environ and (what := wanted()):
    stand_in(what)
