"""What the rows of a request are: columns of a table, images, or texts; each becomes arrays, and outputs become predictions."""

import base64
import binascii
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heliostat.errors import UserError
from heliostat.wording import agreeing, counted
from heliostat.workloads.export.loader import encode, named
from heliostat.workloads.export.loader.rows import BadValues, encode_column
from heliostat.workloads.serve.engine import Arrays, Compute

Row = Mapping[str, Any]
LONGEST = 100
"""Characters of a number or a date as a text."""
PIXELS = 50_000_000
"""Of an image, at most: a small file can have billions."""
DATES = ("2024-01-31", "31.01.2024", "31/01/2024", "01/31/2024", "31 Jan 2024", "Jan 31, 2024", "20240131", "12:30")


@dataclass(frozen=True)
class Codec:
    """How rows are read and answered.

    Args:
        encode: rows -> arrays (rows, ...) by name; raises ValueError or UserError if they are not such rows.
        compute: arrays -> outputs (rows, ...), as ``heliostat predict`` has them.
        name: outputs -> a prediction for each row; raises the same if one is not finite.
        example: one row that can be read, for the page and the warm-up.
        columns: by the name of each column its JSON schema, in which ``kind`` and ``width`` are those of the signature.
        by_column: whether the inputs of the Open Inference Protocol are the columns, not the arrays of the model.
    """

    encode: Callable[[Sequence[Row]], Arrays]
    compute: Compute
    name: Callable[[Arrays], list[dict[str, Any]]]
    example: Row
    columns: Mapping[str, Mapping[str, Any]]
    by_column: bool = True


def of_table(signature: Mapping[str, Any], compute: Compute) -> Codec:
    """The columns of a table, by the content of ``signature.json``."""
    columns = signature["columns"]
    schemas = {each["name"]: _schema(each) for each in columns}
    kinds = ("number", "boolean", "date")
    short = [name for each in columns if each["kind"] in kinds for name in (each["name"], each["source"]) if name]

    def read(rows: Sequence[Row]) -> Arrays:
        _check_lengths(rows, short)
        return encode(signature, rows)

    return Codec(
        read,
        compute,
        lambda outputs: named(signature, finite(outputs)),
        {each["name"]: _example(each, signature["missing"]) for each in columns},
        schemas,
    )


def _check_lengths(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Raises a ValueError for texts that are too long for numbers and dates: the time to read one grows with its square."""
    for number, row in enumerate(rows, 1):
        for name in names:
            if name in row and isinstance(value := row[name], str) and len(value) > LONGEST:
                raise ValueError(
                    f"row {number}: column {name!r} has a text of {len(value)} characters, at most {LONGEST} are read"
                )


def _schema(column: Mapping[str, Any]) -> dict[str, Any]:
    schema = {"kind": column["kind"], "description": column["wanted"], **SCHEMAS[column["kind"]]}
    return {**schema, **({"width": column["width"]} if column["kind"] == "list" else {})}


SCHEMAS: dict[str, dict[str, Any]] = {
    "number": {"type": ["number", "string", "null"]},
    "boolean": {"type": ["boolean", "string", "null"]},
    "category": {"type": ["string", "number", "boolean", "null"]},
    "date": {"type": ["string", "null"]},
    "list": {"type": ["array", "null"], "items": {"type": ["number", "null"]}},
    "text": {"type": ["string", "null"]},
}


def _example(column: Mapping[str, Any], missing: Sequence[str]) -> Any:
    if column["kind"] == "date":
        return next((text for text in DATES if _is_read(column, text, missing)), None)
    if column["kind"] == "list":
        return [0.0] * column["width"]
    if column["kind"] == "category":
        return next(iter(column["categories"]), "a")
    return {"number": column["offset"] or 0, "boolean": True, "text": "a text"}[column["kind"]]


def _is_read(column: Mapping[str, Any], value: Any, missing: Sequence[str]) -> bool:
    try:
        encode_column(column, [value], missing)
    except BadValues:
        return False
    return True


def of_images(read: Callable[[str], Mapping[str, Any]], signature: Mapping[str, Any], compute: Compute) -> Codec:
    """Images as base64 of a file such as PNG or JPEG, under ``image``.

    Args:
        read: what reads the file of an image as a batch of one, `Task.read`.
        compute: see `Codec`.
        signature: its classes, see `named`.
    """
    description = "a PNG or JPEG file in base64"
    return Codec(
        lambda rows: _images(read, rows),
        compute,
        lambda outputs: named(signature, finite(outputs)),
        {"image": _some_image()},
        {"image": {"type": "string", "contentEncoding": "base64", "description": description}},
        by_column=False,
    )


def _images(read: Callable[[str], Mapping[str, Any]], rows: Sequence[Row]) -> Arrays:
    found = []
    with tempfile.TemporaryDirectory(prefix="heliostat-images-") as folder:
        for number, row in enumerate(rows, 1):
            if row.keys() != {"image"} or not isinstance(row["image"], str):
                raise ValueError(f'row {number} must be {{"image": BASE64}}, the file of an image in base64')
            path = Path(folder, f"image {number}")
            path.write_bytes(_decoded(row["image"], number))
            try:
                found.append(read(str(path)))
            except UserError as error:
                raise ValueError(str(error).replace(str(path), f"image {number}")) from None
    return {name: np.concatenate([each[name].numpy() for each in found]) for name in found[0]}


def _decoded(text: str, number: int) -> bytes:
    from PIL import Image

    try:
        data = base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"image {number} is not base64: {error}") from None
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
    except Exception:  # Pillow raises a dozen types; the task reads it again and says why
        return data
    if size[0] * size[1] > PIXELS:
        raise ValueError(f"image {number} has {size[0]}x{size[1]} pixels, more than {PIXELS // 1_000_000} million")
    return data


def _some_image() -> str:
    """A square with a bright cross."""
    from PIL import Image

    pixels = np.zeros((16, 16), np.uint8)
    pixels[2:14, 6:10] = pixels[6:10, 2:14] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def finite(outputs: Arrays) -> Arrays:
    """The outputs.

    Raises:
        ValueError: some are NaN or infinite.
    """
    for name, values in outputs.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1)) + 1
            raise ValueError(
                f"the {name} of {len(bad):,} of {counted(len(values), 'row')}, first of row {bad[0]}, "
                f"{agreeing(len(bad), 'are')} NaN or infinite: "
                "give the values that these rows lack"
            )
    return outputs
