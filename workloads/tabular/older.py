"""Rows of datasets without a signature: of tables that earlier versions built, and of the user's own arrays of features."""

import json
from typing import Any

import torch
from torch import Tensor

from heliostat.datasets import Index
from heliostat.datasets.signature import FEATURES
from heliostat.errors import UserError
from heliostat.wording import counted


def read_row(index: Index, value: str) -> dict[str, Tensor]:
    """A batch of one from a JSON object with every feature by its name, or a JSON list in the dataset's order.

    Arrays have no names of features: their object is ``{"features": [...]}``.

    Raises:
        UserError: it is neither.
    """
    width, known = index.fields[FEATURES].shape[0], index.meta.get("feature_names")
    names: list[str] = known or [str(at) for at in range(width)]
    wanted = f"a JSON object with {', '.join(names)}" if known else f"a JSON list of {counted(width, 'number')}"
    offsets: dict[str, float] = index.meta.get("offsets", {})
    try:
        data: Any = json.loads(value)
        row = data
        if isinstance(data, dict):
            row = [data[name] for name in names] if known else data[FEATURES]
        if offsets and isinstance(row, list) and len(row) == len(names):
            # Before it is rounded to 32 bits.
            row = [number - offsets.get(name, 0) for name, number in zip(names, row, strict=True)]
        features = torch.tensor([row], dtype=torch.float32)
    except (ValueError, TypeError, KeyError, OverflowError, RuntimeError) as error:
        raise UserError(f"input {value[:60]!r} is not a row: {error}", f"give {wanted}") from None
    if features.shape != (1, len(names)):
        raise UserError(
            f"the input has {counted(features.shape[-1], 'value')}, but must have {len(names)}", "give one per feature"
        )
    if not features.isfinite().all():
        raise UserError(f"input {value[:60]!r} has a value that is not a finite number", "give finite numbers")
    return {FEATURES: features}
