"""The Open Inference Protocol, version 2, with its extension for binary data (https://github.com/kserve/open-inference-protocol).

The inputs of a model on a table, or on texts, are its columns, each a tensor (rows,), of lists (rows, length); NaN and an empty
text are missing values. Those of other models are the arrays that ``signature.json`` of an export describes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from heliostat import __version__
from heliostat.errors import UserError
from heliostat.wording import counted
from heliostat.workloads.serve.body import parse_object
from heliostat.workloads.serve.codecs import Codec, finite
from heliostat.workloads.serve.engine import Arrays, Engine
from heliostat.workloads.serve.language import LONGEST
from heliostat.workloads.serve.refusal import Limits, Refusal
from heliostat.workloads.serve.rows import kept, message_of
from heliostat.workloads.serve.sample import Keep, nothing
from heliostat.workloads.serve.servable import Servable
from heliostat.workloads.serve.tensors import datatype, read_tensors, write_tensors

JSON_LENGTH = "inference-header-content-length"
KEYS = {"id", "inputs", "outputs", "parameters"}
Document = dict[str, Any]
OF_COLUMNS = {"number": "FP64", "boolean": "BOOL", "list": "FP64"}
"""By the kind of a column the type of its tensor; others are BYTES, and any type that can be read is taken."""
SERVER: Document = {"name": "heliostat", "version": __version__, "extensions": ["binary_tensor_data"]}


def metadata(model: Servable) -> Document:
    """What ``GET /v2/models/NAME`` answers."""
    if model.codec and model.codec.by_column:
        inputs = [_column(name, schema) for name, schema in model.codec.columns.items()]
        outputs = [_tensor(name, values.dtype, values.shape) for name, values in _columns([model.answer or {}]).items()]
    else:
        inputs, outputs = (
            [_tensor(name, each["dtype"], each["shape"]) for name, each in model.signature[key].items()]
            for key in ("inputs", "outputs")
        )
    return {
        "name": model.name, "versions": [model.version], "platform": "heliostat", "inputs": inputs, "outputs": outputs,
        "parameters": {"reference": model.reference, "checksum": model.checksum},
    }  # fmt: skip


def _column(name: str, schema: Mapping[str, Any]) -> Document:
    kind = str(schema.get("kind", "text"))
    return {
        "name": name,
        "datatype": OF_COLUMNS.get(kind, "BYTES"),
        "shape": [-1, *([schema["width"]] if kind == "list" else [])],
    }


def _tensor(name: str, dtype: Any, shape: Any) -> Document:
    sizes = [-1, *(-1 if isinstance(size, str) else size for size in shape[1:])]
    return {"name": name, "datatype": datatype(dtype), "shape": sizes}


async def infer(
    model: Servable, engine: Engine, limits: Limits, body: bytes, json_length: str | None, keep: Keep = nothing
) -> tuple[Document, bytes]:
    """The JSON of the answer to ``POST /v2/models/NAME/infer``, and the binary data that follow it.

    Args:
        model: the one that is asked.
        engine: computes.
        limits: how many rows there may be.
        body: JSON, and binary data after it.
        json_length: the header with the length of the JSON in bytes, if there is one.
        keep: takes the rows of a table and their predictions.

    Raises:
        Refusal: 400, it is no such request; 413, too many rows; 422, values cannot be read.
    """
    size = len(body) if json_length is None else int(json_length) if json_length.isdecimal() and len(json_length) < 20 else -1
    if not 0 <= size <= len(body):
        raise Refusal(400, f"Inference-Header-Content-Length is {json_length!r}, but the body has {counted(len(body), 'byte')}")
    request = parse_object(body[:size])
    if unknown := request.keys() - KEYS:
        raise Refusal(400, f"the request has unknown keys: {', '.join(sorted(map(repr, unknown)))}")
    if not isinstance(request.get("id", ""), str):
        raise Refusal(400, "id must be a text")
    tensors = read_tensors(request.get("inputs"), memoryview(body)[size:], limits.rows)
    if len({len(values) for values in tensors.values()}) > 1:
        raise Refusal(400, "all inputs must have the same number of rows, the first of their shape")
    wanted = _wanted(request)
    try:
        outputs = await _computed(model, engine, tensors, keep)
    except (ValueError, UserError) as error:
        raise Refusal(422, message_of(error)) from None
    if missing := [name for name in wanted or () if name not in outputs]:
        raise Refusal(400, f"there is no output {missing[0]!r}: there are {', '.join(outputs)}")
    chosen = {name: outputs[name] for name in wanted or outputs}
    all_binary = _flag(request.get("parameters", {}), "binary_data_output")
    entries, binary = write_tensors(chosen, [name for name in chosen if (wanted or {}).get(name, all_binary)])
    identity = {"id": request["id"]} if "id" in request else {}
    return {**identity, "model_name": model.name, "model_version": model.version, "outputs": entries}, binary


def _wanted(request: Mapping[str, Any]) -> dict[str, bool]:
    """The names of the outputs that are asked for, and whether each is to be binary; empty for all of them."""
    outputs, default = request.get("outputs", []), _flag(request.get("parameters", {}), "binary_data_output")
    if not isinstance(outputs, list) or not all(
        isinstance(each, dict) and isinstance(each.get("name"), str) for each in outputs
    ):
        raise Refusal(400, "outputs must be a list of objects, each with a name")
    return {each["name"]: _flag(each.get("parameters", {}), "binary_data", default) for each in outputs}


def _flag(parameters: Any, name: str, default: bool = False) -> bool:
    if not isinstance(parameters, dict) or not isinstance(parameters.get(name, default), bool):
        raise Refusal(400, f"parameters must be an object, in which {name} is true or false")
    return bool(parameters.get(name, default))


async def _computed(model: Servable, engine: Engine, tensors: Arrays, keep: Keep) -> Arrays:
    codec = model.codec
    if codec and codec.by_column:
        rows = _rows(codec, tensors)
        answer = kept(codec.name, model, rows, keep)
        found: Arrays = await engine.run(codec.compute, lambda: codec.encode(rows), lambda outputs: _columns(answer(outputs)))
        return found
    _check(model, tensors)
    found = await engine.run(model.compute, lambda: tensors, finite)
    return found


def _rows(codec: Codec, tensors: Arrays) -> list[Document]:
    """Rows of the columns that the tensors are."""
    for name, values in tensors.items():
        if values.ndim > 2 or (values.ndim == 2 and values.shape[1] > 1 and codec.columns.get(name, {}).get("kind") != "list"):
            raise Refusal(400, f"input {name} has shape {[*values.shape]}, but a column has (rows,), a list (rows, length)")
    lists = {name: _values(values, codec.columns.get(name, {}).get("kind") == "list") for name, values in tensors.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _values(values: Any, are_lists: bool) -> list[Any]:
    found = values if are_lists else values.reshape(len(values))
    if found.dtype.kind == "f" and not are_lists:
        return [None if each != each else each for each in found.tolist()]
    return list(found.tolist())


def _columns(predictions: list[Any]) -> Arrays:
    """Predictions as arrays (rows, ...): numbers of 64 bits, and texts."""
    found = {name: np.array([each[name] for each in predictions]) for name in predictions[0]}
    return {name: values.astype(object) if values.dtype.kind == "U" else values for name, values in found.items()}


def _check(model: Servable, tensors: Arrays) -> None:
    """Raises a `Refusal` that lists which tensors are not those that the model takes."""
    inputs, problems = model.signature["inputs"], list[str]()
    problems += [f"there is no input {name!r}" for name in tensors if name not in inputs]
    longest = model.language.context if model.language else LONGEST
    for name, wanted in inputs.items():
        if name not in tensors:
            problems.append(f"input {name} is missing")
            continue
        values, shape = tensors[name], wanted["shape"]
        fits = values.ndim == len(shape) and all(
            size <= longest if isinstance(axis, str) else size == axis
            for size, axis in zip(values.shape[1:], shape[1:], strict=True)
        )
        if datatype(values.dtype) != datatype(wanted["dtype"]) or not fits:
            sizes = [-1, *shape[1:]]
            problems.append(
                f"input {name} is {datatype(values.dtype)} {[*values.shape]}, but must be {datatype(wanted['dtype'])} {sizes}"
                + (f", with a length up to {longest}" if any(isinstance(axis, str) for axis in shape[1:]) else "")
            )
        elif name == "tokens" and "vocabulary" in model.signature:
            most = int(model.signature["vocabulary"])
            if (values < 0).any() or (values >= most).any():
                problems.append(f"input tokens has values that are not from 0 to {most - 1}")
    if problems:
        raise Refusal(422, "; ".join(problems))
