"""Checkpoints: ``checkpoints/step-00000100/`` with the state and, written last, the manifest that makes it one.

A model that is whole on every worker makes one file, ``state.pt``. One that is sharded over W workers makes W files,
``state-0-of-W.pt`` and so on, each written by the worker that holds it. A file is what ``torch.save`` makes of a `State`;
``torch.load`` opens it. The manifest has the size and the checksum of each file, and a checksum of itself.
"""

import hashlib
import io
import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from heliostat.errors import JobFailed
from heliostat.folder import Folder
from heliostat.workloads.run.record import CHECKPOINTS

MANIFEST = "manifest.json"
SECTIONS = ("model", "optimizer")

State = dict[str, Any]
"""``model``: parameters and buffers by name; ``optimizer``: its tensors by ``parameter/key``; ``progress``: plain numbers;
``rows``: for each tensor that is cut along its first axis (``section/name``), how many rows the whole has."""
File = dict[str, Any]
"""What the manifest says of a file: ``bytes`` and ``sha256``."""


class Damaged(JobFailed):
    """A checkpoint is not what was written; the message says what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest was written: its folder, its step and what was measured at that step, if anything was."""

    folder: Folder
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    """In the order of the workers that wrote them."""
    damage: str = ""
    """What is wrong with its manifest."""

    def read(self, rank: int = 0, world: int = 1, sharded: Collection[str] = ()) -> State:
        """The state on the CPU, whichever number of workers wrote it.

        Only the files are read that hold what is asked for; with as many workers as wrote it, one.

        Args:
            rank: of the worker that asks.
            world: the number of workers now.
            sharded: the parameters of which this worker wants its own rows only.

        Raises:
            Damaged: a file is missing or is not the one that was written.
        """
        import torch  # here, because the driver and the controller, who only look which there are, do without

        if self.damage:
            raise Damaged(f"checkpoint {self.folder} is damaged: {self.damage}")
        names = list(self.files)
        pieces = {rank * len(names) // world: self._load(names[rank * len(names) // world])}
        ((_, own),) = pieces.items()
        state: State = {"model": {}, "optimizer": {}, "progress": own["progress"], "rows": {}}
        for section in SECTIONS:
            for name, tensor in own[section].items():
                mine = tensor.ndim > 0 and (name if section == "model" else name.rpartition("/")[0]) in sharded
                total = own["rows"].get(f"{section}/{name}")
                if total is None:
                    state[section][name] = tensor[slice(*share(len(tensor), rank, world))].clone() if mine else tensor
                    continue
                first, last = share(total, rank, world) if mine else (0, total)
                size = -(-total // len(names))
                parts = [tensor[:0]]
                for number in range(first // size, -(-last // size) if last > first else 0):
                    if number not in pieces:
                        pieces[number] = self._load(names[number])
                    parts.append(pieces[number][section][name][max(0, first - number * size) : last - number * size])
                state[section][name] = torch.cat(parts)
        return state

    def _load(self, name: str) -> State:
        import torch

        try:
            data = self.folder.read(name)
        except FileNotFoundError:
            raise Damaged(f"checkpoint {self.folder} is damaged: {name} is missing") from None
        wanted = self.files[name]
        if len(data) != wanted["bytes"]:
            raise Damaged(f"checkpoint {self.folder} is damaged: {name} has {len(data)} bytes instead of {wanted['bytes']}")
        if hashlib.sha256(data).hexdigest() != wanted["sha256"]:
            raise Damaged(f"checkpoint {self.folder} is damaged: {name} has other contents than were written")
        state: State = torch.load(io.BytesIO(data), weights_only=True)
        return state


def share(rows: int, rank: int, world: int) -> tuple[int, int]:
    """The rows of a tensor that a worker has when it is cut along its first axis, as FSDP and ``torch.chunk`` do it."""
    size = -(-rows // world)
    return min(rows, rank * size), min(rows, (rank + 1) * size)


def folder_of(run: Folder, step: int) -> Folder:
    """Where the checkpoint of a step is."""
    return run / CHECKPOINTS / f"step-{step:08d}"


def write_state(folder: Folder, name: str, state: State) -> File:
    """Write one file of a checkpoint; what the manifest must say of it."""
    import torch

    with folder.writing(name) as stream:
        hashed = _Hashed(stream)
        try:
            torch.save(state, hashed)  # type: ignore[arg-type]  # it needs no more than write
        except RuntimeError:
            if hashed.error:  # torch hides it behind one of its own (seen on 2.15)
                raise hashed.error from None
            raise
    return {"bytes": hashed.bytes, "sha256": hashed.sha256.hexdigest()}


def commit(folder: Folder, step: int, metrics: dict[str, float], files: dict[str, File]) -> Checkpoint:
    """Write the manifest of a checkpoint whose files are all there; from then on it counts."""
    manifest = {"step": step, "metrics": metrics, "files": files}
    folder.write(MANIFEST, json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1).encode())
    return Checkpoint(folder, step, metrics, files)


def found(run: Folder) -> list[Checkpoint]:
    """All checkpoints of a run whose manifest was written, also one that has been damaged since, oldest first."""
    return [_open(folder_of(run, step), step) for step in _steps(run) if folder_of(run, step).exists(MANIFEST)]


def committed(run: Folder) -> list[Checkpoint]:
    """The checkpoints of a run that can be used as far as their manifests tell, oldest first."""
    return [c for c in found(run) if not c.damage]


def best(checkpoints: list[Checkpoint], metric: str, better: str) -> Checkpoint | None:
    """The checkpoint with the best metric, the earliest of equals; None if none was measured."""
    return next(iter(ranked(checkpoints, metric, better)), None)


def ranked(checkpoints: list[Checkpoint], metric: str, better: str) -> list[Checkpoint]:
    """Those checkpoints that were measured, the best first."""
    sign = 1 if better == "higher" else -1
    measured = [c for c in checkpoints if math.isfinite(c.metrics.get(metric, math.nan))]
    return sorted(measured, key=lambda c: (-sign * c.metrics[metric], c.step))


def prune(run: Folder, step: int, last: int, best: int, metric: str, better: str) -> None:
    """Delete what came before the checkpoint of ``step``, also what an interrupted save left.

    What lies after it stays: it may be in the making.

    Args:
        run: the run folder.
        step: of the newest checkpoint.
        last: so many of the newest are kept.
        best: and so many of the best.
        metric: by which they are the best.
        better: ``higher`` or ``lower``.
    """
    before = [c for c in committed(run) if c.step <= step]
    keep = {c.step for c in [*before[-last:], *ranked(before, metric, better)[:best]]}
    for old in _steps(run):
        if old <= step and old not in keep:
            folder_of(run, old).delete()


def _steps(run: Folder) -> list[int]:
    matches = (re.fullmatch(r"step-(\d{8,})", name) for name in (run / CHECKPOINTS).names())
    return sorted(int(match[1]) for match in matches if match)


def _open(folder: Folder, step: int) -> Checkpoint:
    try:
        manifest = json.loads(folder.read(MANIFEST))
        if manifest.pop("sha256") != _digest(manifest) or manifest["step"] != step:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        return Checkpoint(folder, step, damage=f"{MANIFEST} has other contents than were written")
    return Checkpoint(folder, step, manifest["metrics"], manifest["files"])


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


class _Hashed:
    """A stream that takes the checksum of what goes through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.bytes, self.sha256 = stream, 0, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._stream.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self._stream.flush()
