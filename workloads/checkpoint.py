"""Checkpoints: ``checkpoints/step-00000100/`` with the state and, written last, the manifest that makes it one."""

import hashlib
import io
import json
import math
from dataclasses import dataclass
from typing import Any

import torch

from heliostat.errors import JobFailed
from heliostat.folder import Folder

STATE, MANIFEST = "state.pt", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its folder, its step and what was measured at that step, if anything was."""

    folder: Folder
    step: int
    metrics: dict[str, float]

    def load(self, device: torch.device) -> dict[str, Any]:
        """The state as it was saved.

        Raises:
            JobFailed: the file is not the one that was written.
        """
        data = self.folder.read(STATE)
        if hashlib.sha256(data).hexdigest() != json.loads(self.folder.read(MANIFEST))["sha256"]:
            raise JobFailed(f"checkpoint {self.folder} is damaged; delete that folder to go on from the one before")
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        return state


def save(run: Folder, step: int, state: dict[str, Any], metrics: dict[str, float]) -> Checkpoint:
    """Write a checkpoint; until its manifest is there, it does not count."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    manifest = {"step": step, "metrics": metrics, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    try:
        folder.write(STATE, data)
        folder.write(MANIFEST, json.dumps(manifest).encode())
    except BaseException:
        folder.delete()
        raise
    return Checkpoint(folder, step, metrics)


def committed(run: Folder) -> list[Checkpoint]:
    """All checkpoints of a run, oldest first."""
    folder = run / "checkpoints"
    found = []
    for name in folder.names():
        if (folder / name).exists(MANIFEST):
            manifest = json.loads((folder / name).read(MANIFEST))
            found.append(Checkpoint(folder / name, manifest["step"], manifest["metrics"]))
    return found


def best(checkpoints: list[Checkpoint], metric: str, better: str) -> Checkpoint | None:
    """The checkpoint with the best metric, the earliest of equals; None if none was measured."""
    measured = [c for c in checkpoints if math.isfinite(c.metrics.get(metric, math.nan))]
    sign = 1 if better == "higher" else -1
    return max(measured, key=lambda c: (sign * c.metrics[metric], -c.step), default=None)


def prune(run: Folder, metric: str, better: str) -> None:
    """Delete all but the last and the best, and what an interrupted save left."""
    checkpoints = committed(run)
    keep = {c.folder.name for c in [*checkpoints[-1:], best(checkpoints, metric, better)] if c}
    for name in (run / "checkpoints").names():
        if name not in keep:
            (run / "checkpoints").delete(name)
