"""Loads an exported model and predicts with it; needs numpy and what runs the format: torch, onnxruntime or lightgbm.

It stands beside ``signature.json`` in the folder of an exported model, and works without the program that has trained it:

    import sys; sys.path.insert(0, "churn-onnx")
    from loader import Model
    Model().predict([{"age": 41, "country": "DE"}])
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .rows import encode

__all__ = ["Model", "encode", "named"]
Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Function = Callable[[Arrays], Arrays]


class Model:
    """An exported model.

    Args:
        folder: its folder, by default the one that this package is in.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else Path(__file__).parent.parent
        self.signature: dict[str, Any] = json.loads((self.folder / "signature.json").read_text())
        if self.signature["format"] not in FORMATS:
            raise ValueError(f"{self.folder} has weights in the format {self.signature['format']}, and nothing to run them")
        self._function = FORMATS[self.signature["format"]](self.folder, self.signature)

    def run(self, arrays: Mapping[str, Array]) -> Arrays:
        """The outputs (samples, ...) by name for the inputs (samples, ...) by name, as the signature describes both."""
        inputs = self.signature["inputs"]
        if missing := [name for name in inputs if name not in arrays]:
            raise ValueError(f"the inputs {', '.join(missing)} are missing")
        return self._function({name: _typed(name, np.asarray(arrays[name]), each["dtype"]) for name, each in inputs.items()})

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A prediction for each row of a table, such as ``{"prediction": "no", "probability_no": 0.9, ...}``.

        Raises:
            ValueError: see `encode`; the model takes no rows; an output is NaN.
        """
        if "columns" not in self.signature:
            raise ValueError("the model takes no rows of a table: give arrays to run")
        if isinstance(rows, str | bytes | Mapping):
            raise ValueError("the rows are no list of mappings of columns to values")
        if not len(rows):
            return []
        outputs = self.run(encode(self.signature, rows))
        if bad := [name for name, values in outputs.items() if not np.isfinite(values).all()]:
            raise ValueError(f"the outputs {', '.join(bad)} have values that are NaN or infinite: rows lack what is needed")
        return named(self.signature, outputs)


def named(signature: Mapping[str, Any], outputs: Mapping[str, Array]) -> list[dict[str, Any]]:
    """A prediction for each row, from the outputs (rows, ...) by name, with the names of the classes and the quantiles."""
    classes: list[str] = signature.get("classes", [])
    columns = {"prediction": [classes[at] for at in outputs["class"].tolist()]} if "class" in outputs else {}
    for name, values in outputs.items():
        if name == "probabilities" and classes:
            columns |= {f"probability_{each}": values[:, at].tolist() for at, each in enumerate(classes)}
        elif name == "quantiles":
            columns |= {f"quantile_{each}": values[:, at].tolist() for at, each in enumerate(signature["quantiles"])}
        elif name != "class":
            columns[name] = values.tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _typed(name: str, values: Array, dtype: str) -> Array:
    """The values with the type of the input; whole numbers only if all of them stay the same."""
    with np.errstate(invalid="ignore"):
        typed = np.ascontiguousarray(values, dtype)
    if typed.dtype.kind in "iu" and not np.array_equal(typed, values):
        raise ValueError(f"the input {name} has values that are no {dtype}, such as {values[typed != values].flat[0]}")
    return typed


def _torch(folder: Path, signature: Mapping[str, Any]) -> Function:
    import torch

    module = torch.export.load(folder / "model.pt2").module()

    def function(arrays: Arrays) -> Arrays:
        with torch.no_grad():
            outputs = module({name: torch.from_numpy(values) for name, values in arrays.items()})
        return {name: values.numpy() for name, values in outputs.items()}

    return function


def _onnx(folder: Path, signature: Mapping[str, Any]) -> Function:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [*signature["outputs"]]
    return lambda arrays: dict(zip(names, session.run(names, arrays), strict=True))


def _lightgbm(folder: Path, signature: Mapping[str, Any]) -> Function:
    import lightgbm

    trees = signature["trees"]
    boosters = [lightgbm.Booster(model_file=str(folder / name)) for name in trees["files"]]
    fill = np.array([np.nan if each is None else each for each in trees["fill"]], np.float32)

    def function(arrays: Arrays) -> Arrays:
        parts = [arrays["features"]] if "features" in arrays else []
        if "categories" in arrays:
            parts.append(np.where(arrays["categories"] < 0, np.nan, arrays["categories"]).astype(np.float32))
        rows = np.concatenate(parts, 1)
        rows = np.where(np.isnan(rows), fill, rows)
        found = [np.asarray(booster.predict(rows, raw_score=True), np.float64) for booster in boosters]
        scores = np.column_stack([each.reshape(len(rows), -1) for each in found])
        if not trees["classes"]:
            values = np.sort(scores, 1) * trees["scale"] + trees["center"]
            if trees["median"] is None:
                return {"prediction": values[:, 0]}
            return {"prediction": values[:, trees["median"]], "quantiles": values}
        scores = scores if trees["classes"] > 2 else np.concatenate([np.zeros_like(scores), scores], 1)
        shares = np.exp(scores.astype(np.float32) - scores.astype(np.float32).max(1, keepdims=True))
        probabilities = shares / shares.sum(1, keepdims=True)
        if trees["threshold"] is None:
            return {"probabilities": probabilities, "class": probabilities.argmax(1)}
        chosen, least = trees["threshold"]
        return {"probabilities": probabilities, "class": np.where(probabilities[:, chosen] >= least, chosen, 1 - chosen)}

    return function


FORMATS: dict[str, Callable[[Path, Mapping[str, Any]], Function]] = {"torch": _torch, "onnx": _onnx, "lightgbm": _lightgbm}
"""What opens the files of each format that can be run."""
