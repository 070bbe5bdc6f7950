"""The run of this process of a script: its folder, its lease, and whether it is asked to save and exit."""

import atexit
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from heliostat.environment import RUN, WORKERS
from heliostat.errors import NotWritable, StorageUnavailable, UserError
from heliostat.folder import Folder
from heliostat.workloads.run.lease import Lease, hold
from heliostat.workloads.torchrun.arguments import ARGUMENTS
from heliostat.workloads.torchrun.settle import settle

atexit.register(settle)  # with the first import, so after what the script registers


class State:
    """The state of this process's run."""

    stop_requested = False
    """Whether SIGTERM was received, or Ctrl-C."""
    handler_pid = 0
    """The process whose handler this is: forked children must not use it."""
    lease: Lease | None = None
    described = False


def folder() -> Folder:
    """The run folder: heliostat's, or the one that it would use here."""
    if RUN in os.environ:
        return Folder.at(os.environ[RUN])
    program = Path(sys.argv[0])
    return Folder.at("runs") / (program.parent.name if program.stem == "__main__" else program.stem)


def rank() -> int:
    """The rank of this process; 0 without torchrun."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """The number of processes; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def workers() -> dict[str, Any]:
    """What ``heliostat torchrun`` has written for rank 0: the ``id`` of the command, ``launched`` (the time of its start), and
    ``workers`` (host, device, ``born``, price an hour), by rank; empty elsewhere."""
    return dict(json.loads(Path(os.environ[WORKERS]).read_text())) if WORKERS in os.environ else {}


def say(text: str) -> None:
    """Prints a message on rank 0."""
    if rank() == 0:
        print(f"heliostat: {text}", file=sys.stderr, flush=True)


@contextmanager
def refusals() -> Iterator[None]:
    """Turns an error of the user's, or of the storage, into one message and the end of the script with its exit code."""
    try:
        yield
    except (UserError, StorageUnavailable) as error:
        say(str(error))
        sys.exit(error.exit_code)


def claim(run: Folder) -> Lease:
    """Holds the run's lease until this process exits, and describes the script in its folder; rank 0 does it for all.

    Raises:
        UserError: another process holds it.
    """
    if State.lease is None:
        stack = ExitStack()
        try:
            State.lease = stack.enter_context(hold(run))
        except NotWritable:
            raise
        except UserError as error:
            raise UserError(
                error.what, "stop that one first, or give this one another name: heliostat torchrun --name"
            ) from None
        atexit.register(stack.close)
    if not State.described:
        _describe(run)
        State.described = True
    return State.lease


def _describe(run: Folder) -> None:
    """Writes what ran here, and with how many workers: now, and in earlier commands."""
    before = json.loads(run.read(ARGUMENTS)) if run.exists(ARGUMENTS) else {}
    sizes = [size for size in before.get("workers", []) if size != world_size()]
    found = {
        "arguments": sys.argv[1:],
        "script": sys.argv[0],
        "created": before.get("created", time.time()),
        "workers": [*sizes, world_size()],
        "command": workers().get("id"),
    }
    run.write(ARGUMENTS, json.dumps(found).encode())


def handle_signals() -> None:
    """Installs handlers that request the exit at the next `save`, and then call the script's own.

    For SIGTERM, and under ``heliostat torchrun`` for the first Ctrl-C, which is a KeyboardInterrupt elsewhere.
    """
    mine = State.handler_pid == os.getpid()
    if mine or threading.current_thread() is not threading.main_thread():
        return
    State.handler_pid = os.getpid()
    for number in (signal.SIGTERM, signal.SIGINT) if RUN in os.environ else (signal.SIGTERM,):
        _handle(number)


def replace_signals() -> None:
    """Like `handle_signals`, in place of a handler for SIGTERM that a framework has installed."""
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if State.handler_pid == os.getpid():
        _handle(signal.SIGTERM)
    handle_signals()


def _handle(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def heard(number: int, frame: FrameType | None) -> None:
        if os.getpid() != State.handler_pid:  # a forked child
            signal.signal(number, before if number == signal.SIGINT else signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        first = not State.stop_requested
        State.stop_requested = True
        if callable(before) and not (first and before is signal.default_int_handler):
            before(number, frame)

    signal.signal(number, heard)
