"""The formats: what each needs, and the files that it writes of a model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from heliostat.errors import UserError
from heliostat.workloads.export import huggingface, onnx
from heliostat.workloads.export.graph import Predictions, trace, without_refusals
from heliostat.workloads.tabular.threshold import checked
from heliostat.workloads.task import Batch, Task


@dataclass(frozen=True)
class Exportable:
    """A trained model on the CPU, in ``eval`` mode, and an example."""

    task: Task
    model: nn.Module
    batch: Batch
    """At least two samples of the columns that the predictions are computed of."""


Written = dict[str, Any]
"""What a format adds to the signature."""


def write_weights(source: Exportable, folder: Path) -> Written:
    """``model.safetensors``: the state of the model, as ``start_from`` takes it, too."""
    from safetensors.torch import save_file

    state = source.model.state_dict()
    if other := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise UserError(f"the state of the model has {', '.join(other)}, which is no tensor", "register it as a buffer")
    # Clones, because tensors that share memory, as tied weights do, are refused.
    save_file({name: value.contiguous().clone() for name, value in state.items()}, folder / "model.safetensors")
    return {}


def write_program(source: Exportable, folder: Path) -> Written:
    """``model.pt2``: the predictions as a program of `torch.export`."""
    program = trace(Predictions(source.task, without_refusals(source.model)), source.batch, source.task.any_length)
    torch.export.save(program, folder / "model.pt2")
    return {}


def write_onnx(source: Exportable, folder: Path) -> Written:
    """``model.onnx``: the predictions as an ONNX graph."""
    predictions = Predictions(source.task, without_refusals(source.model))
    with torch.no_grad():
        names = list(predictions(source.batch))
    onnx.write(trace(predictions, source.batch, source.task.any_length), [*source.batch], names, folder / "model.onnx")
    return {}


def write_trees(source: Exportable, folder: Path) -> Written:
    """LightGBM's own files: ``model.txt``, or with quantiles ``model-0.1.txt`` and so on."""
    trees: Any = source.model
    if trees.booster is None:
        raise UserError("the run has no trees yet", "let it train longer")
    files = [f"model-{level:g}.txt" for level in trees.levels] or ["model.txt"]
    for booster, name in zip(trees.boosters, files, strict=True):
        booster.save_model(str(folder / name))
    fill = [None] * trees.columns if trees.fill is None else [None if each != each else float(each) for each in trees.fill]
    described = {
        "files": files, "classes": trees.classes, "fill": fill, "center": float(trees.center), "scale": float(trees.scale),
        "threshold": checked(source.task.options.threshold, source.task.index.classes),
        "median": trees.levels.index(0.5) if trees.levels else None,
    }  # fmt: skip
    return {"trees": described}


def no_check(source: Exportable) -> None:
    """Nothing more is needed."""


def check_trees(source: Exportable) -> None:
    """Raises a UserError for a model that is not made of trees."""
    if not of_trees(source.task):
        raise UserError(f"--to lightgbm is for gradient boosting, but the task is {type(source.task).__name__}",
                        "--to torch, onnx or safetensors")  # fmt: skip


def of_trees(task: Task) -> bool:
    """Whether the model of a task is LightGBM's."""
    # By the name: the module of the task needs LightGBM, which is an extra.
    return any(cls.__name__ == "GradientBoosting" and cls.__module__.startswith("heliostat.") for cls in type(task).mro())


@dataclass(frozen=True)
class Format:
    """One of ``--to``."""

    write: Callable[[Exportable, Path], Written]
    check: Callable[[Exportable], None] = no_check
    """Raises a UserError if the model has no such format, or a package is missing."""


FORMATS = {
    "safetensors": Format(write_weights),
    "torch": Format(write_program),
    "onnx": Format(write_onnx, lambda _: onnx.check_installed()),
    "hf": Format(huggingface.write, huggingface.check),
    "lightgbm": Format(write_trees, check_trees),
}


def check(to: str, source: Exportable) -> None:
    """Raises a UserError if the model has no such format, with the reason, or a package is missing."""
    if of_trees(source.task) and to != "lightgbm":
        raise UserError(f"--to {to} is for models with weights, but this one is made of trees", "--to lightgbm")
    FORMATS[to].check(source)
