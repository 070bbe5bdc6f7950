"""A model that is served: the best checkpoint of a run, or an exported model."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heliostat.datasets.signature import LABEL, TARGET
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.export.graph import Predictions
from heliostat.workloads.export.loader import Model
from heliostat.workloads.export.samples import as_taken
from heliostat.workloads.export.signature import of_data, outputs_and_inputs
from heliostat.workloads.inference import Trained, load_run
from heliostat.workloads.prediction.model import named as columns_of
from heliostat.workloads.prediction.rows import any_table
from heliostat.workloads.serve.codecs import Codec, of_images, of_table
from heliostat.workloads.serve.engine import Arrays, Compute
from heliostat.workloads.serve.language import Language, of_export, of_run
from heliostat.workloads.task import Batch, Task


@dataclass(frozen=True)
class Servable:
    """A model under its name.

    Args:
        name: in the paths of requests.
        version: the step of a run, or the number in the registry.
        source: the run or the folder that it comes from.
        signature: what ``signature.json`` of an export has: inputs, outputs, classes, columns.
        compute: arrays (rows, ...) by name, as the signature's inputs, to outputs (rows, ...), as an export of it does.
        codec: how raw rows are read and answered; None for a model that takes only arrays.
        language: of a language model, what generates text.
    """

    name: str
    version: str
    source: str
    signature: Mapping[str, Any]
    compute: Compute
    codec: Codec | None = None
    language: Language | None = None

    answer: Mapping[str, Any] | None = None
    """The prediction for the example of its codec."""
    reference: str = ""
    """By what it is served: a run's name, or ``NAME@3`` or ``NAME@champion`` of the registry."""
    checksum: str = ""
    """Of a version of the registry."""
    warm_up_seconds: float = 0.0
    """How long its first computations took."""

    def warmed_up(self) -> "Servable":
        """The same, after it has computed for one and for two rows: the first calls of a model allocate, and may compile.

        Raises:
            UserError: it fails on an example.
        """
        codec, began, answer = self.codec, time.perf_counter(), None
        for count in (1, 2):
            if codec:
                answer = codec.name(codec.compute(codec.encode([codec.example] * count)))[0]
            else:
                self.compute({name: np.concatenate([values] * count) for name, values in self._zeros().items()})
        return replace(self, answer=answer, warm_up_seconds=time.perf_counter() - began)

    def _zeros(self) -> Arrays:
        """One row of zeros for each input."""
        return {
            name: np.zeros([1, *(2 if isinstance(size, str) else size for size in each["shape"][1:])], each["dtype"])
            for name, each in self.signature["inputs"].items()
        }


def from_run(folder: Folder, name: str) -> Servable:
    """The best checkpoint of a run.

    Raises:
        UserError: see `load_run`; the task makes no predictions.
    """
    run = load_run(folder)
    compute = _on(run.ranks.device, Predictions(run.task, run.model))
    inputs = _example_batch(run)
    outputs = compute({name: values.numpy() for name, values in inputs.items()})
    if not outputs:
        raise UserError(f"task {type(run.task).__name__} makes no predictions", "give the task a predict method")
    tensors = {name: torch.from_numpy(values) for name, values in outputs.items()}
    signature = {**outputs_and_inputs(run.task, inputs, tensors), **of_data(run.index)}
    writes = hasattr(run.task, "text") and "tokens" in inputs and "logits" in outputs
    language = of_run(run.task, run.model) if writes else None
    return Servable(name, str(run.step), str(folder), signature, compute, _codec(run, signature), language, reference=name)


class _Predicted(Predictions):
    """What ``heliostat predict`` computes of rows, which is not always what an export does."""

    def outputs(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        return self._task.predict(self.model, batch)


def _on(device: torch.device, predictions: Predictions) -> Compute:
    """Predictions of arrays, computed on a device."""

    def compute(arrays: Arrays) -> Arrays:
        batch = {name: torch.from_numpy(np.ascontiguousarray(values)).to(device) for name, values in arrays.items()}
        with torch.inference_mode():
            return {name: _array(values) for name, values in predictions(batch).items()}

    return compute


def _array(values: torch.Tensor) -> Any:
    """Numbers of 16 bits as 32, as `Predictor` has them."""
    wide = values.float() if values.is_floating_point() and values.dtype != torch.float64 else values
    return wide.cpu().numpy()


def _example_batch(run: Trained) -> Batch:
    """Two rows with the columns of the dataset, without targets: of zeros, of texts two."""
    if run.takes_texts:
        return run.task.rows(any_table([{_text_column(run.task): "a text"}] * 2))[0]
    return {
        name: as_taken(torch.zeros([2, *field.shape], dtype=getattr(torch, field.dtype)), name in run.task.any_length)
        for name, field in run.index.fields.items()
        if name not in (LABEL, TARGET)
    }


def _codec(run: Trained, signature: Mapping[str, Any]) -> Codec | None:
    task = run.task
    compute = _on(run.ranks.device, _Predicted(task, run.model))
    if "columns" in signature and not task.reads_rows:
        return of_table(signature, compute)
    if run.takes_texts:
        return _of_texts(task, compute)
    if "image" in run.index.fields and type(task).read is not Task.read:
        return of_images(task.read, signature, compute)
    return None


def _text_column(task: Any) -> str:
    return str(task.kept["text"]) if hasattr(task, "kept") else "text"


def _of_texts(task: Task, compute: Compute) -> Codec:
    """Rows of texts, which the task reads itself."""

    def encode(rows: Any) -> Arrays:
        return {name: values.numpy() for name, values in task.rows(any_table(rows))[0].items()}

    def name(outputs: Arrays) -> list[dict[str, Any]]:
        columns = columns_of(task, {key: torch.from_numpy(values) for key, values in outputs.items() if key != "class"})
        lists = [values.to_pylist() for values in columns.values()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]

    column = _text_column(task)
    return Codec(encode, compute, name, {column: "a text"}, {column: {"type": "string"}})


def from_export(folder: Path, name: str, version: str) -> Servable:
    """An exported model, as ``heliostat model export`` writes it.

    Raises:
        UserError: its format has weights, and nothing that runs them; or what runs it is not installed.
    """
    try:
        model = Model(folder)
    except ValueError as error:
        raise UserError(str(error), "export it to torch, onnx or lightgbm") from None
    except ModuleNotFoundError as error:
        raise UserError(f"{folder} needs {error.name}, which is not installed", f"pip install {error.name}") from None
    signature = model.signature
    language = of_export(model) if "tokenizer" in signature and "logits" in signature["outputs"] else None
    codec = of_table(signature, model.run) if "columns" in signature else None
    return Servable(name, version, str(folder), signature, model.run, codec, language)
