"""``index.json``: what a dataset holds. It may come from anywhere, so everything in it is checked before it is used."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
import pydantic
import xxhash

from heliostat.config import Config
from heliostat.datasets.signature import CATEGORIES, FEATURES, LABEL, QUANTILES, TARGET, Signature, TrainStatistics
from heliostat.errors import UserError
from heliostat.wording import counted

INDEX = "index.json"
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
SHOWN = 20
"""Problems of an index that are listed; a damaged one may have as many as the dataset has shards."""

Count = Annotated[int, pydantic.Field(ge=1, le=2**40, description="a whole number from 1 to 2**40")]
"""Bounded, so that the sum over all shards is far below 2**63."""


def _hexadecimal(digits: int, default: Any = ...) -> Any:
    return pydantic.Field(default, pattern=rf"^[0-9a-f]{{{digits}}}$", description=f"{digits} hexadecimal digits")


class Field(Config):
    """The type of one column: a numpy dtype and the shape of a sample."""

    dtype: str = pydantic.Field(pattern=r"^(u?int(8|16|32|64)|float(16|32|64))$", description="a number's type, such as uint8")
    shape: tuple[Count, ...] = pydantic.Field(
        default=(), strict=False, max_length=32, description="at most 32 whole numbers, each at least 1"
    )

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]" if self.shape else self.dtype

    @property
    def size(self) -> int:
        """The bytes of a sample."""
        return math.prod(self.shape) * int(self.dtype.lstrip("uintfloa")) // 8


class Shard(Config):
    """One file: name, rows, size in bytes, SHA-256, and XXH3 (64 bits), which the first versions did not write."""

    file: str = pydantic.Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$", description="the name of a file beside the index, without a folder"
    )
    rows: Count
    bytes: Count
    sha256: str = _hexadecimal(64)
    xxh3: str | None = _hexadecimal(16, None)

    @classmethod
    def of(cls, file: str, rows: int, data: pa.Buffer) -> "Shard":
        """The shard that has this content."""
        return cls(file=file, rows=rows, bytes=data.size, sha256=_sha256(data), xxh3=_xxh3(data))

    def has(self, data: pa.Buffer) -> bool:
        """Whether that is the content of the file, by the fast checksum, or by SHA-256 if there is no other."""
        return _xxh3(data) == self.xxh3 if self.xxh3 else self.has_sha256(data)

    def has_sha256(self, data: pa.Buffer) -> bool:
        return _sha256(data) == self.sha256


class Index(Config):
    """The metadata of a dataset.

    ``fingerprint`` is a hash of the fields, ``meta`` and every value in order, so it does not depend on the version
    of the Arrow library. ``stats`` has the mean and the standard deviation of each column of the train split over all axes
    but the first one of a sample (channels of an image, features of a row).
    """

    format: Literal[1, 2] = pydantic.Field(1, description="1 or 2; a later version of Heliostat reads others")
    fingerprint: str = _hexadecimal(32)
    fields: dict[str, Field] = pydantic.Field(min_length=1, description="at least one column, with its dtype and shape")
    splits: dict[str, tuple[Shard, ...]] = pydantic.Field(description="train, validation and test, each a list of shards")
    stats: dict[str, dict[str, list[float]]] = pydantic.Field(description="lists of numbers, mean and std, of each column")
    meta: dict[str, Any]
    source: dict[str, Any]
    signature: Signature | None = pydantic.Field(None, description="the columns of a table, since format 2")
    train: TrainStatistics | None = pydantic.Field(None, description="statistics of a table's train split, since format 2")

    @classmethod
    def parse(cls, data: bytes, where: str) -> "Index":
        """The index of the dataset ``where``.

        Raises:
            UserError: it is damaged, or has a format that this version does not read; the message lists what is wrong.
        """
        try:
            return cls.model_validate_json(data, strict=False)
        except pydantic.ValidationError as error:
            problems = [line for one in error.errors() for line in _describe(one)]
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        lines = "".join(f"\n    {line}" for line in problems[:SHOWN] + more)
        raise UserError(
            f"dataset {where}: {INDEX} is damaged:{lines}", "build it again, or copy it again from where it is whole"
        )

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if problems := list(self._problems()):
            raise ValueError("\n".join(problems))
        return self

    def document(self) -> bytes:
        """The content of ``index.json``."""
        without = None if self.signature else {"signature", "train"}  # which earlier versions do not know
        return self.model_dump_json(indent=2, exclude=without).encode()

    @property
    def read(self) -> dict[str, Any]:
        """How the csv files of a table are written, see the option ``read``; of others that may mean something else."""
        return dict(self.source.get("read") or {}) if self.source.get("name") == "table" else {}

    def rows(self, split: str) -> int:
        return sum(shard.rows for shard in self.splits[split])

    @property
    def classes(self) -> list[str]:
        """The names of the classes in the column ``label``; empty without such a column."""
        return list(self.meta.get("classes", []))

    def _problems(self) -> Iterator[str]:
        for split in dict.fromkeys((*SPLITS, *self.splits)):
            if split not in SPLITS:
                yield f"splits has {split!r}, but must have {', '.join(SPLITS)}"
            elif not self.splits.get(split):
                yield f"splits.{split} has no shards"
        size = sum(field.size for field in self.fields.values())
        for split, shards in self.splits.items():
            for number, shard in enumerate(shards):
                if shard.rows * size > shard.bytes:
                    least = f"{counted(shard.rows, 'row')} of {counted(size, 'byte')}"
                    yield f"splits.{split}.{number}.bytes is {shard.bytes}, but must be at least that of {least}"
        files = Counter(shard.file for shards in self.splits.values() for shard in shards)
        for file in (file for file, times in files.items() if times > 1):
            yield f"splits has {file!r} {files[file]} times, but each shard is a file of its own"
        for name, stats in self.stats.items():
            shape = self.fields[name].shape if name in self.fields else ()
            lengths = {key: len(values) for key, values in stats.items()}
            if not shape or lengths != {"mean": shape[0], "std": shape[0]}:
                yield f"stats.{name} has {lengths or 'no'} values, but must have a mean and a std for each of {list(shape[:1])}"
        yield from self._table_problems()
        classes = self.meta.get("classes", [])
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            yield f"meta.classes is {_shown(classes)}, but must be a list of names"
        elif self.signature and classes != (named := list(self.signature.target.classes)):
            yield f"meta.classes has {len(classes)} names, but must have the {len(named)} of signature.target.classes"

    def _table_problems(self) -> Iterator[str]:
        """Where the signature and the statistics of a table are not of the arrays that there are."""
        if (self.format == 2) != (self.signature is not None) or (self.signature is None) != (self.train is None):
            yield f"format is {self.format}, but signature and train belong to format 2, and only to it"
        if not self.signature or not self.train:
            return
        width, count = sum(column.width for column in self.signature.numeric), len(self.signature.categorical)
        for name, wanted in ((FEATURES, width), (CATEGORIES, count)):
            shape = self.fields[name].shape if name in self.fields else (0,)
            if shape != (wanted,):
                yield f"signature has {wanted} {name}, but fields.{name} has the shape {list(shape)}"
        if len(self.signature.feature_names) != width:
            yield f"signature has names of {counted(len(self.signature.feature_names), 'feature')}, but must have {width}"
        if not len(self.train.missing) == len(self.train.quantiles) == width or len(self.train.counts) != count:
            yield f"train must have statistics of {counted(width, 'feature')} and {counted(count, 'category')}"
        for column, counts in zip(self.signature.categorical, self.train.counts, strict=False):
            if len(counts) != column.codes + 1:
                yield f"train.counts of {column.name!r} has {counted(len(counts), 'number')}, but must have {column.codes + 1}"
        if any(len(each) != QUANTILES for each in self.train.quantiles):
            yield f"train.quantiles must have {QUANTILES} numbers of each feature"
        learnt = LABEL if self.signature.target.kind == "class" else TARGET
        if learnt not in self.fields:
            yield f"signature has a target of the kind {self.signature.target.kind}, but fields has no {learnt}"
        length = len(self.signature.target.classes) if learnt == LABEL else 2 + QUANTILES
        if len(self.train.target) != length:
            yield f"train.target has {counted(len(self.train.target), 'number')}, but must have {length}"


def _describe(error: Any) -> list[str]:
    """The lines of one error of pydantic: the field, its value and what it must be."""
    where = ".".join(map(str, error["loc"]))
    if not where:
        return str(error["msg"]).removeprefix("Value error, ").splitlines()
    if error["type"] == "missing":
        return [f"{where} is missing"]
    if error["type"] == "extra_forbidden":
        return [f"{where} is not a known key"]
    return [f"{where} is {_shown(error['input'])}, but must be {_wanted(error['loc']) or error['msg']}"]


def _wanted(path: tuple[str | int, ...]) -> str | None:
    """The description of the last key of a path that has one."""
    described = {name: field.description for kind in (Index, Shard, Field) for name, field in kind.model_fields.items()}
    return next((described[key] for key in reversed(path) if isinstance(key, str) and described.get(key)), None)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _sha256(data: pa.Buffer) -> str:
    return hashlib.sha256(data).hexdigest()


def _xxh3(data: pa.Buffer) -> str:
    return xxhash.xxh3_64(data).hexdigest()
