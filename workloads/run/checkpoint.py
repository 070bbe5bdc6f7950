"""Checkpoints: ``checkpoints/step-00000100/`` with the state and, written last, the manifest that commits it.

A replicated model has one file, ``state.pt``. A model that is sharded over W workers has W files, ``state-0-of-W.pt`` and so
on, each written by the worker that holds the shard. A file is a `State` as ``torch.save`` writes it. The manifest has the size
and the checksum of each file, and a checksum of itself.
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
SECTIONS = ("model", "optimizer", "trained", "scaler")

State = dict[str, Any]
"""``model``: parameters and buffers by name, as they are evaluated; ``trained``: the parameters that training continues from,
if ``model`` has their average; ``optimizer``: its tensors by ``parameter/key``; ``numbers``: its other values, by
``parameter/key`` or ``#group/key``; ``scaler``: the scale of an fp16 loss; ``progress``: plain numbers; ``rows``: for each
tensor that is sharded along its first axis (``section/name``), the rows of the whole. Earlier versions wrote a part of them."""
File = dict[str, Any]
"""A file's entry in the manifest: ``bytes`` and ``sha256``."""


class Damaged(JobFailed):
    """A checkpoint differs from what was written; the message says how."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with a manifest: its folder, its step, and the metrics of that step, if it was evaluated."""

    folder: Folder
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    """By rank of the worker that wrote them."""
    damage: str = ""
    """What is wrong with the manifest; empty if nothing is."""

    def read(
        self,
        rank: int = 0,
        world: int = 1,
        sharded: Collection[str] = (),
        infinite: Collection[str] = (),
        buffers: Collection[str] = (),
    ) -> State:
        """Reads the state to the CPU, whatever the number of workers that wrote it.

        Reads only the files that hold what this worker needs; with the world size that wrote it, one.

        Args:
            rank: of this worker.
            world: the world size now.
            sharded: the parameters of which this worker needs its own rows only.
            infinite: the tensors that need not be finite, see `not_finite`.
            buffers: the names of the model's buffers, which may be infinite, but not NaN.

        Raises:
            Damaged: a file is missing or differs from what was written; a tensor is not finite.
        """
        import torch  # here, so that the driver and the controller, which only list checkpoints, do not load torch

        if self.damage:
            raise Damaged(f"checkpoint {self.folder} is damaged: {self.damage}")
        names = list(self.files)
        pieces = {rank * len(names) // world: self._load(names[rank * len(names) // world])}
        ((_, own),) = pieces.items()
        state: State = {"progress": own["progress"], "numbers": own.get("numbers", {}), "rows": {}}
        for section in SECTIONS:
            state[section] = {}
            for name, tensor in own.get(section, {}).items():
                mine = tensor.ndim > 0 and (name.rpartition("/")[0] if section == "optimizer" else name) in sharded
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
        if bad := not_finite(state, infinite, buffers):
            what = "NaN" if bad[0].removeprefix("model/") in buffers else "NaN or infinite"
            raise Damaged(f"checkpoint {self.folder} is damaged: {bad[0]} is {what}")
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
            raise Damaged(f"checkpoint {self.folder} is damaged: {name} does not match its checksum")
        state: State = torch.load(io.BytesIO(data), weights_only=True)
        return state


def not_finite(state: State, allowed: Collection[str] = (), buffers: Collection[str] = ()) -> list[str]:
    """The tensors of a state that have a NaN or an infinite value, as ``section/name``.

    Some have one by intent: those of a new model are ``allowed``, and the model's ``buffers`` may be infinite, such as a mask
    that the first forward pass fills.
    """
    import torch

    tensors = {
        f"{section}/{name}": _real(tensor)
        for section in SECTIONS
        for name, tensor in state.get(section, {}).items()
        if (tensor.is_floating_point() or tensor.is_complex()) and f"{section}/{name}" not in allowed
    }
    # Norms, because they are several times as fast as isfinite(), which need only look where one has overflowed.
    suspects: list[str] = []
    for dtype in (torch.float32, torch.float64):
        group = [place for place, tensor in tensors.items() if (tensor.dtype == torch.float64) == (dtype == torch.float64)]
        if group:
            norms = torch.stack(torch._foreach_norm([tensors[place] for place in group], 2.0, dtype))
            suspects += [place for place, fine in zip(group, norms.isfinite().tolist(), strict=True) if not fine]
    infinite = {f"model/{name}" for name in buffers}
    return [
        place
        for place in suspects
        if (tensors[place].isnan().any() if place in infinite else not tensors[place].isfinite().all())
    ]


def _real(tensor: Any) -> Any:
    """A floating-point or complex tensor as one of real numbers that norms can be computed of."""
    import torch

    tensor = tensor.detach()
    if tensor.is_complex():
        return torch.view_as_real(tensor.resolve_conj())
    return tensor.float() if tensor.element_size() == 1 else tensor


def share(rows: int, rank: int, world: int) -> tuple[int, int]:
    """The rows that a worker holds of a tensor sharded along its first axis, as FSDP and ``torch.chunk`` do it."""
    size = -(-rows // world)
    return min(rows, rank * size), min(rows, (rank + 1) * size)


def folder_of(run: Folder, step: int) -> Folder:
    """The folder of the checkpoint of a step."""
    return run / CHECKPOINTS / f"step-{step:08d}"


def write_state(folder: Folder, name: str, state: State) -> File:
    """Writes one file of a checkpoint; returns its entry for the manifest."""
    import torch

    with folder.writing(name) as stream:
        hashed = _Hashed(stream)
        try:
            torch.save(state, hashed)  # type: ignore[arg-type]  # it only calls write
        except RuntimeError:
            if hashed.error:  # torch replaces it by an error of its own (seen on 2.15)
                raise hashed.error from None
            raise
    return {"bytes": hashed.bytes, "sha256": hashed.sha256.hexdigest()}


def commit(folder: Folder, step: int, metrics: dict[str, float], files: dict[str, File]) -> Checkpoint:
    """Writes the manifest of a checkpoint whose files are complete; from then on it counts."""
    manifest = {"step": step, "metrics": metrics, "files": files}
    folder.write(MANIFEST, json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1).encode())
    return Checkpoint(folder, step, metrics, files)


def all_checkpoints(run: Folder) -> list[Checkpoint]:
    """All checkpoints of a run that have a manifest, damaged ones too, oldest first."""
    return [_open(folder_of(run, step), step) for step in _steps(run) if folder_of(run, step).exists(MANIFEST)]


def committed(run: Folder) -> list[Checkpoint]:
    """The checkpoints of a run whose manifests are valid, oldest first."""
    return [c for c in all_checkpoints(run) if not c.damage]


def best(checkpoints: list[Checkpoint], metric: str, better: str | None) -> Checkpoint | None:
    """The checkpoint with the best metric, the earliest of equals; None if none was evaluated."""
    return next(iter(ranked(checkpoints, metric, better)), None)


def ranked(checkpoints: list[Checkpoint], metric: str, better: str | None) -> list[Checkpoint]:
    """The checkpoints that were evaluated, the best first."""
    sign = 1 if better == "higher" else -1
    measured = [c for c in checkpoints if math.isfinite(c.metrics.get(metric, math.nan))]
    return sorted(measured, key=lambda c: (-sign * c.metrics[metric], c.step))


def prune(run: Folder, step: int, last: int, best: int, metric: str, better: str | None) -> None:
    """Deletes old checkpoints, and what interrupted saves left before the checkpoint of ``step``.

    Later ones are kept: they may still be being written.

    Args:
        run: the run folder.
        step: of the newest checkpoint.
        last: how many of the newest to keep.
        best: how many of the best to keep.
        metric: which decides the best.
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
        return Checkpoint(folder, step, damage=f"{MANIFEST} does not match its checksum")
    return Checkpoint(folder, step, manifest["metrics"], manifest["files"])


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


class _Hashed:
    """A stream that computes the size and the checksum of what is written through it."""

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
