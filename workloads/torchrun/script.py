"""Checkpoints for scripts, called on every rank: ``resume`` when the parts are created, ``save`` after each step or epoch."""

import atexit
import io
import json
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from heliostat.environment import RUN
from heliostat.errors import NotWritable, UserError
from heliostat.folder import Folder
from heliostat.workloads.run.lease import Lease, hold, taken_over
from heliostat.workloads.run.retry import with_retry
from heliostat.workloads.torchrun.arguments import ARGUMENTS, check_arguments

STATE = "state.pt"
STORAGE_TIMEOUT = 300.0
"""Seconds for which a save is retried while storage is full or unavailable."""
KEEP = 2
"""Checkpoints to keep: the newest, and the one before in case that is damaged."""
SAVED_AND_STOPPED = 128 + signal.SIGTERM
"""The exit code of a script that saved its state after SIGTERM."""


class _Run:
    """The state of this process's run."""

    stop_requested = False
    """Whether SIGTERM was received."""
    handler_pid = 0
    """The process whose handler this is: forked children must not use it."""
    saved = time.monotonic()
    lease: Lease | None = None
    checked = False


def resume(**parts: Any) -> int:
    """Loads the newest checkpoint into the parts; returns its step, 0 if there is none.

    A damaged checkpoint is reported, and the one before is used.

    Args:
        parts: by the same names as in `save`: objects with ``load_state_dict`` (models, optimizers, schedulers,
            scalers, samplers), and dictionaries, which are updated.

    Raises:
        SystemExit: with code 2, if the checkpoints were saved with other arguments or parts, or another process is saving
            there.
    """
    from heliostat.workloads.run import checkpoint

    _handle_sigterm()
    run = _folder()
    try:
        check_arguments(run, sys.argv[1:])
        if _rank() == 0 and run.exists():
            _claim(run)
        for found in reversed(checkpoint.all_checkpoints(run)):
            try:
                states = found.read()["progress"]
            except checkpoint.Damaged as error:
                _say(f"{error}; the one before is used")
                continue
            _load(states, parts, found.folder)
            _say(f"resumes from step {found.step}, {found.folder}")
            return found.step
    except UserError as error:
        _refuse(error)
    return 0


def save(step: int, *, every: float = 0.0, **parts: Any) -> None:
    """Saves the parts after a step, on rank 0; after SIGTERM, also exits the script.

    Args:
        step: how many steps are done; `resume` returns the highest.
        every: the least time between two checkpoints, in seconds; 0 writes each time.
        parts: objects with ``state_dict`` (models, optimizers, schedulers, scalers, samplers), and dictionaries of values.

    Raises:
        TypeError: a part holds something else than tensors, numbers, strings, None, and lists and dictionaries of them.
        UserError: the storage could not be written for minutes.
        JobFailed: another process has taken over the run folder.
        SystemExit: with code 143, after SIGTERM, when the parts are saved.
    """
    _handle_sigterm()
    leave = _Run.stop_requested
    if _rank() == 0 and (leave or time.monotonic() - _Run.saved >= every):
        states = {name: part if isinstance(part, dict) else _unwrapped(part).state_dict() for name, part in parts.items()}
        if not _Run.checked:
            _check(states)
            _Run.checked = True
        with_retry(lambda: _write(states, step), lambda reason: _say(f"cannot save yet: {reason}"), STORAGE_TIMEOUT)
        _Run.saved = time.monotonic()
    if leave:
        _say(f"step {step} is saved, and the script exits, as requested")
        sys.exit(SAVED_AND_STOPPED)


def _load(states: dict[str, Any], parts: dict[str, Any], where: Folder) -> None:
    if states.keys() != parts.keys():
        raise UserError(
            f"{where} has {', '.join(states)}, but the script resumes {', '.join(parts)}",
            f"give resume and save the same parts, or delete {where} and those before it",
        )
    for name, part in parts.items():
        if isinstance(part, dict):
            part.update(states[name])
        else:
            _unwrapped(part).load_state_dict(states[name])


def _unwrapped(part: Any) -> Any:
    """A model without its DistributedDataParallel wrapper, so that its checkpoint does not depend on it."""
    from torch.nn.parallel import DistributedDataParallel

    return part.module if isinstance(part, DistributedDataParallel) else part


def _write(states: dict[str, Any], step: int) -> None:
    from heliostat.workloads.run import checkpoint

    run = _folder()
    lease = _claim(run)
    if lease.lost:
        raise taken_over(run, lease)
    run.write(ARGUMENTS, json.dumps({"arguments": sys.argv[1:]}).encode())
    folder = checkpoint.folder_of(run, step)
    folder.delete()  # an older one of that step would be damaged if this write were interrupted
    # The layout of a training run's checkpoints, where everything that is never sharded is in progress.
    content = {"model": {}, "optimizer": {}, "progress": states, "rows": {}}
    files = {STATE: checkpoint.write_state(folder, STATE, content)}
    checkpoint.commit(folder, step, {}, files)
    checkpoint.prune(run, step, last=KEEP, best=0, metric="", better="lower")


def _claim(run: Folder) -> Lease:
    """Holds the run's lease until this process exits; rank 0 does it for all.

    Raises:
        UserError: another process holds it.
    """
    if _Run.lease is None:
        stack = ExitStack()
        try:
            _Run.lease = stack.enter_context(hold(run))
        except NotWritable:
            raise
        except UserError as error:
            raise UserError(
                error.what, "stop that one first, or give this one another name: heliostat torchrun --name"
            ) from None
        atexit.register(stack.close)
    return _Run.lease


def _check(states: dict[str, Any]) -> None:
    """Checks that the states can be loaded again."""
    import pickle

    import torch

    buffer = io.BytesIO()
    torch.save(states, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line.strip() for line in str(error).splitlines() if "nsupported" in line or "GLOBAL" in line), "")
        raise TypeError(
            f"a part to save holds an object that cannot be loaded again: {reason}\n"
            "  fix: save tensors, numbers, strings, and lists and dictionaries of them, such as vars(args) instead of args"
        ) from None


def _folder() -> Folder:
    """The run folder: heliostat's, or the one that it would use here."""
    if RUN in os.environ:
        return Folder.at(os.environ[RUN])
    program = Path(sys.argv[0])
    return Folder.at("runs") / (program.parent.name if program.stem == "__main__" else program.stem)


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


def _say(text: str) -> None:
    if _rank() == 0:
        print(f"heliostat: {text}", file=sys.stderr, flush=True)


def _refuse(error: UserError) -> NoReturn:
    _say(str(error))
    sys.exit(UserError.exit_code)


def _handle_sigterm() -> None:
    """Installs a SIGTERM handler that requests the exit at the next `save`, and then calls the script's own."""
    mine = _Run.handler_pid == os.getpid()
    if mine or threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)

    def heard(number: int, frame: FrameType | None) -> None:
        if os.getpid() != _Run.handler_pid:  # a forked child
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        _Run.stop_requested = True
        if callable(before):
            before(number, frame)

    _Run.handler_pid = os.getpid()
    signal.signal(signal.SIGTERM, heard)
