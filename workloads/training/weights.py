"""Weights that a new run starts from: those of another run's best checkpoint, or of a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from heliostat.errors import UserError, some
from heliostat.folder import Folder, absolute, expanded
from heliostat.wording import agreeing, counted
from heliostat.workloads.config import StartFrom
from heliostat.workloads.pretrained.weight_files import read_tensors
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.record import CONFIG
from heliostat.workloads.task import Task

FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
EXTRA_STATE = "_extra_state"
"""The end of the names of what modules keep beside parameters and buffers, in any shape (``nn.Module.get_extra_state``)."""
SHOWN = 8


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and where they come from, in words."""

    origin: str
    tensors: Mapping[str, Tensor]


def read_weights(start: StartFrom, task: Task, storage_base: str | Path) -> Weights:
    """Reads the weights of a run or of a file to the CPU; a file cannot run code.

    Args:
        start: the key of the config.
        task: of the new run, whose metric decides which checkpoint of another run is the best.
        storage_base: what the relative folder of a run is relative to; a file is relative to the working directory.

    Raises:
        UserError: there is no such run or file, or it has no weights.
        Damaged: the checkpoint differs from what was written.
    """
    path = expanded(start.path, key="start_from")
    if path.endswith(FILES):
        return _of_file(path)
    run = Folder.at(absolute(path, storage_base))
    if not run.exists(CONFIG):
        raise UserError(
            f"start_from is {start.path!r}, but {run} is not a run: it has no {CONFIG}",
            f"give the folder of a run, or a file that ends in {', '.join(FILES)}",
        )
    saved = checkpoint.committed(run)
    if not saved:
        raise UserError(f"start_from is {start.path!r}, but this run has no checkpoint yet", "let it train longer")
    best = checkpoint.best(saved, task.metric, task.better)
    chosen = best or saved[-1]
    what = f"the best checkpoint, step {chosen.step}," if best else f"the last checkpoint, step {chosen.step},"
    return Weights(f"{what} of {run}", chosen.read()["model"])


def load_weights(model: nn.Module, weights: Weights, strict: bool) -> list[str]:
    """Loads weights into a model; returns what was loaded and what was not, in lines.

    Raises:
        UserError: with ``strict``, the names or the shapes differ; without, nothing fits; a value is NaN or infinite.
    """
    own = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in weights.tensors.items()
        if name in own and (own[name].shape == tensor.shape or name.endswith(EXTRA_STATE))
    }
    missing = [name for name in own if name not in weights.tensors]
    unexpected = [name for name in weights.tensors if name not in own]
    shapes = [
        f"{name} ({list(weights.tensors[name].shape)} there, {list(own[name].shape)} here)"
        for name in own
        if name in weights.tensors and name not in fitting
    ]
    others = [
        f"{kind}: {some(names, SHOWN)}"
        for kind, names in (("missing there", missing), ("unexpected", unexpected), ("of other shapes", shapes))
        if names
    ]
    if (strict and others) or not fitting:
        lines = "".join(f"\n    {line}" for line in others)
        fix = "give weights of the same model"
        if fitting:
            fix = (
                f"{fix}, or load the {counted(len(fitting), 'tensor')} that {agreeing(len(fitting), 'fit')}: start_from: "
                f"{{path: ..., strict: false}}"
            )
        raise UserError(f"the weights in {weights.origin} do not fit the model:{lines}", fix)
    new = checkpoint.not_finite({"model": own, "optimizer": {}})
    buffers = {name for name, _ in model.named_buffers()}
    if bad := checkpoint.not_finite({"model": fitting, "optimizer": {}}, new, buffers):
        raise UserError(f"{bad[0].removeprefix('model/')} in {weights.origin} is NaN or infinite", "give other weights")
    model.load_state_dict({**own, **fitting})
    return [
        f"starts from {weights.origin}: {len(fitting)} of the model's {counted(len(own), 'tensor')} "
        f"{agreeing(len(fitting), 'are')} loaded",
        *others,
    ]


def write_first(run: Folder, model: nn.Module) -> None:
    """Saves the weights as the checkpoint of step 0, from which the workers start, even if the original is deleted."""
    folder = checkpoint.folder_of(run, 0)
    state = {"model": model.state_dict(), "optimizer": {}, "progress": {}, "rows": {}}
    checkpoint.commit(folder, 0, {}, {"state.pt": checkpoint.write_state(folder, "state.pt", state)})


def _of_file(path: str) -> Weights:
    found = read_tensors(path, "start_from", "a file or a run")
    return Weights(str(Path(path).expanduser().absolute()), found)
