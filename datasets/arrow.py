"""Arrays as an Arrow IPC file of one record batch, and back without a copy.

By buffers, as pyarrow's own conversions, `pa.array` and `to_numpy`, import pandas (pyarrow 26), which takes 0.3 s.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heliostat.datasets.index import Field
from heliostat.wording import counted

Columns = dict[str, npt.NDArray[Any]]


def encode(columns: Columns, fields: Mapping[str, Field]) -> pa.Buffer:
    """A file with these arrays, each (rows, *shape)."""
    arrays = []
    for name, field in fields.items():
        values = np.ascontiguousarray(columns[name]).reshape(-1)
        flat = pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, math.prod(field.shape)) if field.shape else flat)
    batch = pa.record_batch(arrays, names=list(fields))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def decode(data: pa.Buffer, fields: Mapping[str, Field], rows: int) -> Columns:
    """The inverse of `encode`; the arrays are views on the file.

    Raises:
        ArrowInvalid: the file is damaged, or does not have these fields and so many rows.
    """
    with pa.ipc.open_file(data) as reader:
        if reader.num_record_batches != 1:
            raise pa.ArrowInvalid(f"it has {reader.num_record_batches} record batches, but must have one")
        batch = reader.get_batch(0)
    batch.validate()
    if batch.num_rows != rows:
        raise pa.ArrowInvalid(f"it has {counted(batch.num_rows, 'row')}, but must have {rows:,}")
    if batch.num_columns != len(fields):
        raise pa.ArrowInvalid(f"it has {counted(batch.num_columns, 'column')}, but must have {len(fields)}")
    return {name: _column(batch, name, field) for name, field in fields.items()}


def _column(batch: pa.RecordBatch, name: str, field: Field) -> npt.NDArray[Any]:
    # No name and no type of the file is shown: they may be no UTF-8, which pyarrow raises as another kind of error.
    if (number := batch.schema.get_field_index(name)) < 0:
        raise pa.ArrowInvalid(f"it has no column {name!r}")
    array = batch.column(number)
    flat = array.flatten() if field.shape and pa.types.is_fixed_size_list(array.type) else array
    wrong = flat.type != pa.from_numpy_dtype(field.dtype) or len(flat) != len(array) * math.prod(field.shape)
    if wrong or flat.null_count:
        raise pa.ArrowInvalid(f"its column {name!r} is not {field}, or has nulls")
    return np.from_dlpack(flat).reshape(len(array), *field.shape)
