"""Datasets of Hugging Face, by its library `datasets`: saved to a folder, or as its ``load_dataset`` loads them."""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field as Key

from heliostat.config import Config, nearest
from heliostat.datasets.index import SplitName
from heliostat.datasets.signature import LABEL, TARGET
from heliostat.datasets.sources.images import fitted
from heliostat.datasets.sources.own import OF_TABLES, OF_TEXTS, Named, check_texts
from heliostat.datasets.sources.own.samples import Samples
from heliostat.datasets.sources.own.source import Own
from heliostat.datasets.sources.own.texts import Texts
from heliostat.datasets.sources.own.values import IMAGE, TEXT, TOKENS
from heliostat.datasets.splits import WORDS, Split
from heliostat.errors import UserError
from heliostat.folder import expanded

TEXTS = ("string", "large_string")
ROWS = 1024
"""Rows that are read at once."""


class HuggingFace(Own):
    """Columns of numbers, texts, classes and embeddings are those of a table; with images or token ids, all are arrays."""

    name = "huggingface"

    class Options(Config):
        path: str = Key(description="a folder of save_to_disk, or what load_dataset loads")
        name: str | None = Key(None, description="the configuration, as for load_dataset")
        splits: dict[SplitName, str] = Key({}, description="its splits, such as {train: train, test: validation}")
        target: str | None = Key(None, description="the column to learn; without it label, or target")
        drop: list[str] = Key([], description="columns to leave out")
        size: int = Key(32, ge=1, le=4096, description="the side of the square images, in pixels")
        channels: int = Key(3, ge=1, le=3, description="3 for colour, 1 for grey")
        columns: dict[str, Any] = Key({}, description="how columns are read, as for a table")
        split: Split | None = Key(None, description="how it is split, where it has no splits")
        tokens: Literal["byte", "bpe"] | None = Key(None, description="byte or bpe makes a column of texts tokens")
        text: str = Key(TEXT, description="that column")
        vocabulary: int = Key(2048, ge=257, le=65536, description="the tokens that bpe learns, from 257 to 65536")
        length: int = Key(128, ge=2, description="tokens in a sequence, at least 2")

    def __init__(self, options: Any) -> None:
        given = options.model_dump(mode="json", exclude_defaults=True)
        of_tables = {key: value for key, value in given.items() if key in OF_TABLES}
        of_texts = {key: value for key, value in given.items() if key in OF_TEXTS}
        arguments = {key: value for key, value in given.items() if key not in of_tables and key not in of_texts}
        check_texts(of_texts, of_tables)
        super().__init__(Named(self.name, lambda **_: _load(options), arguments, of_tables, options.split, of_texts))

    def _samples(self) -> Samples | Texts:
        if self.options.of_texts:
            return super()._samples()
        return Samples(self.place, self._classes())  # what is dropped and learnt is known to the parts


class _Part:
    """One split of a dataset: parts of its table, or samples of arrays."""

    def __init__(self, data: Any, options: HuggingFace.Options) -> None:
        self._data, self._options = data, options
        features = data.features
        self._classes = {name: each.names for name, each in features.items() if type(each).__name__ == "ClassLabel"}
        self._kept = [name for name in features if name not in options.drop]
        self._images = [name for name in self._kept if type(features[name]).__name__ == "Image"]
        target = options.target or next((name for name in (LABEL, TARGET) if name in features), None)
        for name in (*options.drop, *([options.target] if options.target else [])):
            if name not in features:
                raise UserError(f"dataset.options of {options.path} name {name!r}, which is no column", nearest(name, features))
        self._target = target
        self.classes = self._classes.get(target or "", [])
        if options.tokens:
            self._kept = [name for name in features if name == options.text] or self._kept
        self._arrays = not options.tokens and (bool(self._images) or any(_is_array(features[name]) for name in self._kept))
        texts = [name for name in self._kept if str(getattr(features[name], "dtype", "")) in TEXTS and name != target]
        if self._arrays and texts:
            shown = ", ".join([*options.drop, *texts])
            raise UserError(
                f"{options.path} has texts beside arrays: {', '.join(texts)}", f"set dataset.options.drop: [{shown}]"
            )

    def __len__(self) -> int:
        return len(self._data) if self._arrays else -(-len(self._data) // ROWS)

    def __iter__(self) -> Iterator[Any]:
        if self._arrays:
            return map(self._sample, self._data)
        return map(self._rows, self._data.with_format("arrow").iter(ROWS))

    def _rows(self, table: pa.Table) -> pa.Table:
        """A part of the table, with the names of classes in place of their numbers."""
        columns = {}
        for name in self._kept:
            column = table[name]
            if name in self._classes:
                codes = column.combine_chunks()
                column = pa.array(self._classes[name]).take(pc.if_else(pc.less(codes, 0), None, codes))
            columns[name] = column
        return pa.table(columns)

    def _sample(self, row: dict[str, Any]) -> dict[str, Any]:
        return {self._name(name): self._value(name, row[name]) for name in self._kept}

    def _name(self, name: str) -> str:
        if name == self._target:
            return TARGET if str(getattr(self._data.features[name], "dtype", "")).startswith("float") else LABEL
        return {"input_ids": TOKENS}.get(name, IMAGE if self._images == [name] else name)

    def _value(self, name: str, value: Any) -> Any:
        if name not in self._images or value is None:
            return np.asarray(value) if isinstance(value, list) else value
        return fitted(value, (self._options.channels, self._options.size, self._options.size))


def _is_array(feature: Any) -> bool:
    """Whether a column has arrays of several axes, or lists of whole numbers, such as token ids."""
    inner = getattr(feature, "feature", None)
    return type(feature).__name__.startswith("Array") or str(getattr(inner, "dtype", "")).startswith(("int", "uint"))


def _load(options: HuggingFace.Options) -> Any:
    """The parts of the dataset by their splits, or the only one."""
    try:
        library = importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise UserError(
            "dataset.source huggingface needs the package datasets", "pip install 'heliostat[huggingface]'"
        ) from None
    path = expanded(options.path, key="dataset.options.path")
    saved = any(Path(path, name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        found = library.load_from_disk(path) if saved else library.load_dataset(path, options.name)
    except Exception as error:  # of any kind: it has loaders for many formats
        fix = "give a folder of save_to_disk, or what load_dataset loads here"
        raise UserError(f"dataset.options.path {options.path} cannot be loaded: {error}", fix) from None
    if not isinstance(found, Mapping):
        return _Part(found, options)
    if missing := [each for each in options.splits.values() if each not in found]:
        raise UserError(f"dataset.options.splits has {missing[0]!r}, which is no split", nearest(missing[0], found))
    chosen = {split: found[theirs] for split, theirs in options.splits.items()} or dict(found)
    odd = [name for name in chosen if name.lower() not in WORDS]
    if odd and len(chosen) > 1:
        fix = "set dataset.options.splits, such as {train: train, test: test}"
        raise UserError(f"{options.path} has the split {odd[0]!r}", fix)
    parts = {name: _Part(data, options) for name, data in chosen.items()}
    return next(iter(parts.values())) if len(parts) == 1 else parts
