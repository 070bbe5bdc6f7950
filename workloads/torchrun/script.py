"""What a script may call, on every rank: ``resume`` once its parts are there, ``save`` after each step or epoch."""

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

MADE_BY, STATE = "script.json", "state.pt"
PATIENCE = 300.0
"""Seconds for which a save waits for storage that is full or away."""
KEEP = 2
"""Checkpoints that stay: the newest, and the one before in case that is damaged."""
LEFT = 128 + signal.SIGTERM
"""The exit code of a script that was asked to end and has saved its state."""


class _Run:
    """What this process knows of its run."""

    notice = False
    """Whether somebody has asked for the end (SIGTERM)."""
    owner = 0
    """The process that listens for that."""
    saved = time.monotonic()
    lease: Lease | None = None
    checked = False


def resume(**parts: Any) -> int:
    """Load what was saved last into the parts; returns its step, 0 when there is none yet.

    A damaged checkpoint is reported and the one before is taken.

    Args:
        parts: by the names under which `save` gets them: what has ``load_state_dict`` (models, optimizers, schedulers,
            scalers, samplers), and dictionaries, which are updated.

    Raises:
        SystemExit: with code 2, when the checkpoints are those of other arguments or parts, or another process makes some
            there.
    """
    from heliostat.workloads.run import checkpoint

    _listen()
    run = _folder()
    try:
        _check_arguments(run)
        if _rank() == 0 and run.exists():
            _own(run)
        for found in reversed(checkpoint.found(run)):
            try:
                states = found.read()["progress"]
            except checkpoint.Damaged as error:
                _say(f"{error}; the one before is taken")
                continue
            _load(states, parts, found.folder)
            _say(f"goes on from step {found.step}, {found.folder}")
            return found.step
    except UserError as error:
        _refuse(error)
    return 0


def save(step: int, *, every: float = 0.0, **parts: Any) -> None:
    """Save the parts after a step; when the end was asked for by SIGTERM, also end the script. Rank 0 writes, others go on.

    Args:
        step: how many are done; the highest is the one that `resume` returns.
        every: seconds since the last one before another is written; 0 writes each time.
        parts: what has ``state_dict`` (models, optimizers, schedulers, scalers, samplers), and dictionaries of plain values.

    Raises:
        TypeError: a part has something else in it than tensors, numbers, texts, None, and lists and dictionaries of them.
        UserError: the storage cannot be written, for minutes.
        JobFailed: another process has taken the run folder over.
        SystemExit: with code 143, when the end was asked for: the parts are saved.
    """
    _listen()
    leave = _Run.notice
    if _rank() == 0 and (leave or time.monotonic() - _Run.saved >= every):
        states = {name: part if isinstance(part, dict) else _bare(part).state_dict() for name, part in parts.items()}
        if not _Run.checked:
            _check(states)
            _Run.checked = True
        with_retry(lambda: _write(states, step), lambda reason: _say(f"cannot save yet: {reason}"), PATIENCE)
        _Run.saved = time.monotonic()
    if leave:
        _say(f"step {step} is saved, and the script ends, as it was asked to")
        sys.exit(LEFT)


def _load(states: dict[str, Any], parts: dict[str, Any], where: Folder) -> None:
    if states.keys() != parts.keys():
        raise UserError(
            f"{where} has {', '.join(states)}, and the script resumes {', '.join(parts)}",
            f"give resume and save the same parts, or delete {where} and those before it",
        )
    for name, part in parts.items():
        if isinstance(part, dict):
            part.update(states[name])
        else:
            _bare(part).load_state_dict(states[name])


def _bare(part: Any) -> Any:
    """A model without the wrapper for several processes, so that its checkpoint also opens where there is one."""
    from torch.nn.parallel import DistributedDataParallel

    return part.module if isinstance(part, DistributedDataParallel) else part


def _write(states: dict[str, Any], step: int) -> None:
    from heliostat.workloads.run import checkpoint

    run = _folder()
    lease = _own(run)
    if lease.lost:
        raise taken_over(run, lease)
    run.write(MADE_BY, json.dumps({"arguments": sys.argv[1:]}).encode())
    folder = checkpoint.folder_of(run, step)
    folder.delete()  # one of that step would be damaged if this were cut short
    # The layout of a training run's checkpoints, in which whatever is not cut over workers is called progress.
    content = {"model": {}, "optimizer": {}, "progress": states, "rows": {}}
    files = {STATE: checkpoint.write_state(folder, STATE, content)}
    checkpoint.commit(folder, step, {}, files)
    checkpoint.prune(run, step, last=KEEP, best=0, metric="", better="lower")


def _own(run: Folder) -> Lease:
    """Keep other processes off the run folder until this one ends. Rank 0 does it; its lease is that of all.

    Raises:
        UserError: another process is at work there.
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
    """Whether it could be read back: now, and not when it is needed."""
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
            f"a part to save has an object that is not plain: {reason}\n"
            "  fix: save tensors, numbers, texts, and lists and dictionaries of them, such as vars(args) instead of args"
        ) from None


def _check_arguments(folder: Folder) -> None:
    """Refuse checkpoints that the same script has made with other arguments."""
    if not folder.exists(MADE_BY):
        return
    there = json.loads(folder.read(MADE_BY))["arguments"]
    if there != sys.argv[1:]:
        raise UserError(
            f"the checkpoints in {folder} were made with the arguments {there}, and these are {sys.argv[1:]}",
            f"give this run another name (heliostat torchrun --name), or delete {folder}/{MADE_BY} to go on with these",
        )


def _folder() -> Folder:
    """The run folder: what heliostat says, or as it would be here."""
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


def _listen() -> None:
    """Note a SIGTERM until the next `save`, unless the script has its own idea of it."""
    mine = _Run.owner == os.getpid()
    if mine or threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)

    def heard(number: int, frame: FrameType | None) -> None:
        if os.getpid() != _Run.owner:  # a forked child, which is not asked
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        _Run.notice = True
        if callable(before):
            before(number, frame)

    _Run.owner = os.getpid()
    signal.signal(signal.SIGTERM, heard)
