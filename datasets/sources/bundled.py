"""The datasets in the package (see ``datasets/bundled/README.md``)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from heliostat.datasets.index import Field
from heliostat.datasets.sources import Chunk, Source, hashes_of
from heliostat.datasets.sources.table import Table

BUNDLED = Path(__file__).parent.parent / "bundled"


class Digits(Source):
    """1,797 handwritten digits of 8x8 pixels, values 0 to 16."""

    name = "digits"
    fields = {"image": Field(dtype="uint8", shape=(1, 8, 8)), "label": Field(dtype="int64")}

    def chunks(self) -> Iterator[Chunk]:
        table = pq.ParquetFile(BUNDLED / "digits.parquet").read()  # read_table and np.asarray import pandas: 0.3 s
        images = np.from_dlpack(table["image"].combine_chunks().flatten()).reshape(-1, 1, 8, 8)
        labels = np.from_dlpack(table["label"].combine_chunks())
        yield Chunk(hashes_of(image.tobytes() for image in images), {"image": images, "label": labels})

    def meta(self) -> dict[str, Any]:
        return {"classes": [str(digit) for digit in range(10)], "white": 16}


class BreastCancer(Table):
    """569 tumours, 30 measurements each, malignant or benign."""

    name = "breast-cancer"

    class Options(Source.Options):
        pass

    def __init__(self, options: Any) -> None:
        super().__init__(Table.Options(path=str(BUNDLED / "breast-cancer.parquet"), target="diagnosis"))

    def description(self) -> dict[str, Any]:
        return {"name": self.name}
