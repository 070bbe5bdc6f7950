"""Tensors of the Open Inference Protocol (v2), in JSON and in binary."""

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.wording import agreeing, counted
from heliostat.workloads.serve.refusal import Refusal

Array = npt.NDArray[Any]
DTYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
"""By the protocol's name of a type that of numpy; BYTES, which are texts here, become objects."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}
KEYS = {"name", "shape", "datatype", "data", "parameters"}
JSON_TYPES: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float}}
AXES = 8


def datatype(dtype: Any) -> str:
    """The protocol's name of a type of numpy."""
    return NAMES.get(np.dtype(dtype).name, "BYTES")


def read_tensors(inputs: Any, binary: memoryview, rows: int) -> dict[str, Array]:
    """The tensors of a request, by name.

    Args:
        inputs: ``inputs`` of its JSON.
        binary: what follows the JSON.
        rows: the length of the first axis, at most.

    Raises:
        Refusal: 400, they are not as the protocol has them; 413, too many rows.
    """
    if not isinstance(inputs, list) or not inputs or not all(isinstance(each, dict) for each in inputs):
        raise Refusal(400, '"inputs" must be a list of at least one tensor')
    found: dict[str, Array] = {}
    for described in inputs:
        name = _name(described, found)
        shape = _shape(name, described.get("shape"), rows)
        size = described.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[name] = _from_json(name, described, shape)
            continue
        if type(size) is not int or not 0 <= size <= len(binary) or "data" in described:
            raise Refusal(
                400,
                f"input {name}: binary_data_size is {size!r}, and {counted(len(binary), 'byte')} "
                f"{agreeing(len(binary), 'are')} left; without data",
            )
        found[name], binary = _from_bytes(name, described["datatype"], shape, binary[:size]), binary[size:]
    if len(binary):
        raise Refusal(400, f"{counted(len(binary), 'byte')} {agreeing(len(binary), 'follow')} the last input")
    return found


def _name(described: Mapping[str, Any], found: Mapping[str, Array]) -> str:
    name = described.get("name")
    if not isinstance(name, str) or name in found:
        raise Refusal(400, f"each input has a name of its own, but one has {str(name)[:80]!r}")
    if unknown := described.keys() - KEYS:
        raise Refusal(400, f"input {name}: unknown keys {', '.join(sorted(unknown))}")
    if described.get("datatype") not in (*DTYPES, "BYTES"):
        raise Refusal(400, f"input {name}: datatype must be one of {', '.join(DTYPES)}, BYTES")
    if not isinstance(described.get("parameters", {}), dict):
        raise Refusal(400, f"input {name}: parameters must be an object")
    return name


def _shape(name: str, shape: Any, rows: int) -> list[int]:
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= AXES
        or not all(type(each) is int and 0 < each < 1 << 31 for each in shape)
    ):
        raise Refusal(400, f"input {name}: shape must be a list of 1 to {AXES} whole numbers above 0, the first the rows")
    if shape[0] > rows:
        raise Refusal(
            413,
            f"input {name} has {counted(shape[0], 'row')}, and at most {rows:,} {agreeing(rows, 'are')} taken: send them "
            "in parts",
        )
    return shape


def _from_json(name: str, described: Mapping[str, Any], shape: list[int]) -> Array:
    data, kind = described.get("data"), described["datatype"]
    if not isinstance(data, list):
        raise Refusal(400, f"input {name}: data must be a list")
    axes = 1
    while data and isinstance(data[0], list) and axes < AXES:
        if not all(isinstance(each, list) for each in data):
            break
        data, axes = list(chain.from_iterable(data)), axes + 1
    if len(data) != math.prod(shape):
        raise Refusal(400, f"input {name}: data has {counted(len(data), 'value')}, but shape {shape} has {math.prod(shape)}")
    dtype = DTYPES.get(kind)
    allowed = JSON_TYPES[np.dtype(dtype).kind] if dtype else {str}
    if strange := {*map(type, data)} - allowed:
        raise Refusal(400, f"input {name}: data of {kind} has a value of type {min(each.__name__ for each in strange)}")
    try:
        return np.array(data, dtype or object).reshape(shape)
    except OverflowError:
        raise Refusal(400, f"input {name}: data has a number that {kind} cannot hold") from None


def _from_bytes(name: str, kind: str, shape: list[int], data: memoryview) -> Array:
    if kind == "BYTES":
        return np.array(_texts(name, data, math.prod(shape)), object).reshape(shape)
    dtype = np.dtype(DTYPES[kind]).newbyteorder("<")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise Refusal(
            400,
            f"input {name}: {counted(len(data), 'byte')}, but {kind} of shape {shape} has {math.prod(shape) * dtype.itemsize}",
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _texts(name: str, data: memoryview, count: int) -> list[str]:
    """Texts, each after its length in 4 bytes."""
    found: list[str] = []
    while len(data) >= 4 and len(found) < count:
        size = int.from_bytes(data[:4], "little")
        piece, data = data[4 : 4 + size], data[4 + size :]
        if len(piece) != size:
            break
        try:
            found.append(bytes(piece).decode())
        except UnicodeDecodeError:
            raise Refusal(400, f"input {name}: a text is not UTF-8") from None
    if len(found) != count or len(data):
        raise Refusal(400, f"input {name}: the bytes are not {counted(count, 'text')}, each after its length in 4 bytes")
    return found


def write_tensors(outputs: Mapping[str, Array], as_binary: Iterable[str]) -> tuple[list[dict[str, Any]], bytes]:
    """The entries of ``outputs`` and what follows the JSON, for those that are wanted in binary."""
    entries, parts, wanted = [], [], set(as_binary)
    for name, values in outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": datatype(values.dtype), "shape": list(values.shape)}
        if name in wanted:
            parts.append(_to_bytes(values))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = values.ravel().tolist()
        entries.append(entry)
    return entries, b"".join(parts)


def _to_bytes(values: Array) -> bytes:
    if values.dtype.kind != "O":
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    texts = [str(each).encode() for each in values.ravel()]
    return b"".join(len(each).to_bytes(4, "little") + each for each in texts)
