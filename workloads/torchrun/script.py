"""Checkpoints for scripts, called on every rank: ``resume`` when the parts are created, ``save`` after each step or epoch."""

import io
import sys
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from heliostat.errors import JobFailed, UserError
from heliostat.folder import Folder
from heliostat.retry import TIMEOUT, with_retry
from heliostat.workloads.run.lease import taken_over
from heliostat.workloads.torchrun import measured, stopping, this_run
from heliostat.workloads.torchrun.arguments import check_arguments
from heliostat.workloads.torchrun.hub import SAVED_AND_STOPPED

STATE = "state.pt"
KEEP = 2
"""Checkpoints to keep: the newest, and the one before in case that is damaged."""


class _Saved:
    """What `resume` and `save` remember in this process."""

    at = time.monotonic()
    checked = False
    infinite: frozenset[str] = frozenset()
    """The tensors of the new parts that are not finite by intent, see `_not_finite`."""


def resume(**parts: Any) -> int:
    """Loads the newest checkpoint into the parts; returns its step, 0 if there is none.

    A damaged checkpoint is reported, and the one before is used; so is one with a NaN, see `save`.

    Args:
        parts: by the same names as in `save`: objects with ``load_state_dict`` (models, optimizers, schedulers,
            scalers, samplers), and dictionaries, which are updated.

    Raises:
        SystemExit: with code 2, if the checkpoints were saved with other arguments or parts, none of them can be used, or
            another process is saving there.
    """
    from heliostat.workloads.run import checkpoint

    this_run.handle_signals()
    run = this_run.folder()
    with this_run.refusals():
        check_arguments(run, sys.argv[1:])
        if this_run.rank() == 0 and run.exists():
            this_run.claim(run)
        _Saved.infinite = frozenset(_not_finite(_states(parts), parts))
        skipped = list[str]()
        for found in reversed(checkpoint.all_checkpoints(run)):
            try:
                states = found.read()["progress"]
                if bad := _not_finite(states, parts, _Saved.infinite):
                    raise checkpoint.Damaged(f"checkpoint {found.folder} is damaged: {bad[0]} is NaN or infinite")
            except checkpoint.Damaged as error:
                this_run.say(f"{error}; the one before is used")
                skipped.append(str(error))
                continue
            _load(states, parts, found.folder)
            this_run.say(f"resumes from step {found.step}, {found.folder}")
            measured.begin(found.step)
            return found.step
        if skipped:
            raise UserError(
                f"no checkpoint in {run} can be used:\n    " + "\n    ".join(skipped),
                f"restore one of them, or delete {run}/checkpoints to start from step 0",
            )
    measured.begin(0)
    return 0


def save(step: int, *, every: float = 0.0, **parts: Any) -> None:
    """Saves the parts after a step, on rank 0; after SIGTERM or Ctrl-C, also exits the script.

    As in a training run, nothing is saved if a model or an optimizer has a NaN or, outside of a model's buffers and of what was
    so when `resume` got it, an infinite value.

    Args:
        step: how many steps are done; `resume` returns the highest.
        every: the least time between two checkpoints, in seconds; 0 writes each time.
        parts: objects with ``state_dict`` (models, optimizers, schedulers, scalers, samplers), and dictionaries of values.

    Raises:
        TypeError: a part holds something else than tensors, numbers, strings, None, and lists and dictionaries of them.
        OSError, NotWritable: the storage could not be written for `TIMEOUT` seconds.
        StorageUnavailable: the run folder could not be looked at for as long.
        JobFailed: a model or an optimizer has a NaN or an infinite value, or another process has taken over the run folder.
        SystemExit: with code 143, after SIGTERM, when the parts are saved.
    """
    this_run.handle_signals()
    leave = stopping.leaves()
    begun = time.monotonic()
    if this_run.rank() == 0 and (leave or begun - _Saved.at >= every):
        states = _states(parts)
        if bad := _not_finite(states, parts, _Saved.infinite):
            raise JobFailed(
                f"step {step} is not saved: {bad[0]} became NaN or infinite; the checkpoints before it are good\n"
                "  try a smaller learning rate, or gradient clipping"
            )
        if not _Saved.checked:
            _check(states)
            _Saved.checked = True
        with_retry(lambda: _write(states, step), lambda reason: this_run.say(f"cannot save yet: {reason}"), TIMEOUT)
        _Saved.at = time.monotonic()
        measured.saved(step, _Saved.at - begun)
    if leave:
        if this_run.rank() == 0:
            stopping.left()
        this_run.say(f"step {step} is saved, and the script exits, as requested")
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


def _states(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: part if isinstance(part, dict) else _unwrapped(part).state_dict() for name, part in parts.items()}


def _not_finite(states: dict[str, Any], parts: dict[str, Any], allowed: Collection[str] = ()) -> list[str]:
    """The tensors of models and optimizers that have a NaN or an infinite value, as ``part/key``; buffers may be infinite."""
    from torch import nn, optim

    from heliostat.workloads.run.checkpoint import not_finite

    tensors, buffers = dict[str, Any](), set[str]()
    for name, part in parts.items():
        whole = _unwrapped(part)
        if isinstance(whole, nn.Module | optim.Optimizer):
            tensors.update(_tensors(states.get(name), name))
        if isinstance(whole, nn.Module):
            buffers.update(f"{name}/{key}" for key, _ in whole.named_buffers())
    found = not_finite({"model": tensors, "optimizer": {}}, {f"model/{name}" for name in allowed}, buffers)
    return [place.removeprefix("model/") for place in found]


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The tensors in a state, with their names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _tensors(inner, f"{name}/{number}")
    elif hasattr(value, "is_floating_point"):
        yield name, value


def _unwrapped(part: Any) -> Any:
    """A model without its DistributedDataParallel wrapper, so that its checkpoint does not depend on it."""
    from torch.nn.parallel import DistributedDataParallel

    return part.module if isinstance(part, DistributedDataParallel) else part


def _write(states: dict[str, Any], step: int) -> None:
    from heliostat.workloads.run import checkpoint

    run = this_run.folder().once
    lease = this_run.claim(this_run.folder())
    if lease.lost:
        raise taken_over(run, lease)
    measured.flush()
    folder = checkpoint.folder_of(run, step)
    # Another name than that of a committed checkpoint of this step, which counts until the manifest names this file.
    name = f"state-{uuid.uuid4().hex[:8]}.pt" if folder.exists(checkpoint.MANIFEST) else STATE
    # The layout of a training run's checkpoints, where everything that is never sharded is in progress.
    content = {"model": {}, "optimizer": {}, "progress": states, "rows": {}}
    files = {name: checkpoint.write_state(folder, name, content)}
    checkpoint.commit(folder, step, {}, files)
    for other in folder.names():
        if other not in (name, checkpoint.MANIFEST):
            folder.delete(other)
    checkpoint.prune(run, step, last=KEEP, best=0, metric="", better="lower")


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
