"""Raw rows as a batch of a table's dataset."""

import json

import pyarrow as pa
import torch
from torch import Tensor

from heliostat.datasets import Index
from heliostat.errors import UserError
from heliostat.workloads.tabular.encoder import described


def read_row(index: Index, value: str) -> dict[str, Tensor]:
    """A batch of one row: a JSON object with the table's columns, of which those that it leaves out are missing, or a list.

    Raises:
        UserError: it is no JSON object, has a column that the table has not, or a value that the column cannot have.
    """
    signature = described(index)[0]
    names = [column.name for column in signature.columns]
    try:
        row = json.loads(value)
    except ValueError as error:
        raise UserError(f"input {value[:60]!r} is not a row: {error}", f"give a JSON object with {', '.join(names)}") from None
    if isinstance(row, list):
        if len(row) != len(names):
            raise UserError(f"the input has {len(row)} values, but must have {len(names)}", f"give {', '.join(names)}")
        row = dict(zip(names, row, strict=True))
    if not isinstance(row, dict):
        raise UserError(f"input {value[:60]!r} is not a row", f"give a JSON object with {', '.join(names)}")
    columns, _ = signature.encode(pa.Table.from_pylist([{name: row.get(name) for name in names}]))
    return {name: torch.from_numpy(values) for name, values in columns.items()}
