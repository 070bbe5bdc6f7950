"""Samples of a source of the user's own as arrays: what each value becomes, and whether all samples are alike.

What is wrong with a sample is raised as a `UserError` without the sample's place, which `Kinds.add` puts before it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from heliostat.datasets.index import Field
from heliostat.datasets.signature import CATEGORIES, FEATURES, LABEL, TARGET
from heliostat.datasets.sources import Problems
from heliostat.datasets.sources.images import eight_bits
from heliostat.errors import UserError
from heliostat.wording import counted

IMAGE, TOKENS, TEXT = "image", "tokens", "text"
DTYPES = {
    np.dtype(f"{kind}{bits}") for bits in (8, 16, 32, 64) for kind in ("int", "uint", "float") if (kind, bits) != ("float", 8)
}
CHANNELS = (1, 3, 4)
MAX_CLASSES = 65_536
SHOWN = 10
"""Problems that a message lists; the samples after them are not looked at."""
Values = dict[str, Any]
Kind = tuple[Any, tuple[int, ...]]
"""The type of an array, and its shape."""


def named(sample: Any) -> dict[str, Any]:
    """The values of a sample by their names: those of a dictionary, or for ``x`` and ``(x, y)`` what they are."""
    if isinstance(sample, Mapping):
        if odd := [key for key in sample if not isinstance(key, str)]:
            raise UserError(f"has the name {odd[0]!r}", "name each value with a text")
        return dict(sample)
    if isinstance(sample, list) and all(isinstance(value, int | float) for value in sample):
        return {_name_of(sample): _array(sample)}
    if not isinstance(sample, tuple | list):
        return {_name_of(sample): sample}
    if len(sample) == 1:
        return named(sample[0])
    if len(sample) != 2:
        raise UserError(f"has {len(sample)} values without names", "return a pair (x, y), or a dictionary")
    x, y = sample
    if isinstance(x, list):  # which is an array here, and in a dictionary a value of a row
        x = _array(x)
    return {**(named(x) if isinstance(x, Mapping) else {_name_of(x): x}), _name_of_target(y): y}


def is_row(values: Mapping[str, Any]) -> bool:
    """Whether a sample is a row of a table: numbers, texts, dates, lists and gaps, but no image and no array with axes."""
    return not any(isinstance(each, Image.Image) or (_is_array(each) and np.ndim(_array(each))) for each in values.values())


def row(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row with numbers in place of tensors and arrays without axes."""
    return {name: _array(value)[()] if _is_array(value) else value for name, value in values.items()}


def stored(name: str, value: Any) -> npt.NDArray[Any] | str:
    """A value of a sample as the array that is stored; a ``label`` may be a text.

    Booleans become 0 and 1, an image (channels, height, width), a whole number ``label`` int64, a number ``target`` float64.
    """
    if isinstance(value, str) and name == LABEL:
        return value
    if name == CATEGORIES:
        raise UserError(f"has the name {name!r}, which is that of the codes of a table", "choose another name")
    if value is None:
        raise UserError(f"has no {name!r}", "fill it, or leave the sample out")
    array = _pixels(value) if isinstance(value, Image.Image) else _numbers(name, value)
    if array.ndim == 0 and (name == TARGET or (name == LABEL and array.dtype.kind in "iub")):
        array = array.astype(np.float64 if name == TARGET else np.int64)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype.newbyteorder("=") not in DTYPES:
        raise UserError(f"has {name!r} of type {array.dtype}", "convert it to numbers of up to 64 bits")
    if not array.size:
        raise UserError(f"has an empty {name!r}, of shape {list(array.shape)}", "leave the sample out")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise UserError(f"has NaN in {name!r}", "fill it, or yield rows of a table, whose gaps are read as missing values")
    if name == IMAGE and array.ndim == 3 and array.shape[2] in CHANNELS and array.shape[0] not in CHANNELS:
        fix = "put them first, as x.transpose(2, 0, 1) or x.permute(2, 0, 1) does"
        raise UserError(f"has an 'image' of shape {list(array.shape)}, with its channels last", fix)
    return np.array(array, array.dtype.newbyteorder("="), order="C")  # a copy: a source may use its array again


class Labels:
    """The classes of the samples.

    Args:
        given: their names in the order of their codes, if they are known.
    """

    def __init__(self, given: list[str]) -> None:
        self._given = given
        self._codes: dict[int | str, int] = {name: code for code, name in enumerate(given)}
        self._codes |= {code: code for code in range(len(given))}

    def code(self, label: int | str) -> int:
        """The code of a label: that of its class, if they are given, else in the order of their first samples."""
        if label in self._codes:
            return self._codes[label]
        if self._given:
            raise UserError(
                f"has the label {label!r}, which is not among the {counted(len(self._given), 'class')}",
                "correct it, or the classes",
            )
        if self._codes and not isinstance(label, type(next(iter(self._codes)))):
            raise UserError(f"has the label {label!r}, and others have numbers or texts", "give all labels as texts")
        if len(self._codes) == MAX_CLASSES:
            raise UserError(f"has the {MAX_CLASSES + 1}th class", "name it target, if it is a number")
        self._codes[label] = len(self._codes)
        return self._codes[label]

    @property
    def names(self) -> list[str]:
        """The names of the classes: the given ones, or all labels, sorted."""
        return self._given or [str(label) for label in self._sorted]

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """The place in ``names`` of each code."""
        if self._given:
            return np.arange(len(self._given))
        places = {label: place for place, label in enumerate(self._sorted)}
        return np.array([places[label] for label in self._codes], np.int64)

    @property
    def _sorted(self) -> list[Any]:
        return sorted(self._codes)


class Kinds:
    """The fields of the samples and their classes, found by looking at each of them.

    Args:
        place: the source, for messages.
        classes: the names of the classes, if they are known.
    """

    def __init__(self, place: str, classes: list[str]) -> None:
        self.fields: dict[str, Field] = {}
        self.labels = Labels(classes)
        self.has_classes = False
        """Whether ``label`` is a class."""
        self._kinds: dict[str, Kind] = {}
        self._first = ""
        self._problems, self._count = Problems(place, most=SHOWN), 0

    def add(self, place: str, sample: Any) -> Values | None:
        """The values of the next sample, which ``place`` names in messages, as they are stored; None if it is refused.

        Raises:
            UserError: many samples have been.
        """
        try:
            values = {name: stored(name, value) for name, value in named(sample).items()}
            kinds = {name: _kind(value) for name, value in values.items()}
            if not self.fields:
                self.fields = {name: Field(dtype=dtype.name, shape=shape) for name, (dtype, shape) in kinds.items()}
                self.has_classes = kinds.get(LABEL) == (np.dtype(np.int64), ())
                self._kinds, self._first = kinds, place
            if kinds != self._kinds:
                self._refuse_kinds(kinds)
            if self.has_classes:
                self.code(values)
        except UserError as error:
            self._problems.add(f"{place} {error.what}", error.fix)
            self._count += 1
            if self._count > SHOWN:
                self.refuse()
            return None
        return values

    def code(self, values: Values) -> int:
        """The code of a sample's class."""
        label = values[LABEL]
        return self.labels.code(label if isinstance(label, str) else int(label))

    def refuse(self) -> None:
        """Raise a UserError with all that is wrong with the samples, if there is anything."""
        self._problems.refuse()

    def _refuse_kinds(self, kinds: dict[str, Kind]) -> None:
        if kinds.keys() != self._kinds.keys():
            fix = "give each sample the same; a number to learn is a float in all of them"
            raise UserError(f"has {', '.join(kinds)}, but {self._first} has {', '.join(self.fields)}", fix)
        for name, (dtype, shape) in kinds.items():
            field, first = Field(dtype=dtype.name, shape=shape), self.fields[name]
            if field != first:
                raise UserError(f"has {name!r} of {field}, but {self._first} of {first}", _alike(name, field, first))


def _alike(name: str, field: Field, first: Field) -> str:
    if field.dtype != first.dtype:
        return f"convert each to {first.dtype}"
    if name == IMAGE and len(field.shape) == len(first.shape) == 3:
        if field.shape[0] != first.shape[0]:
            return "convert each to the same channels, such as image.convert('RGB')"
        return f"scale each to the same size, such as image.resize(({first.shape[2]}, {first.shape[1]}))"
    return "cut or pad each to the same shape"


def _kind(value: npt.NDArray[Any] | str) -> Kind:
    return (np.dtype(np.int64), ()) if isinstance(value, str) else (value.dtype, value.shape)


def _name_of(x: Any) -> str:
    if isinstance(x, str):
        return TEXT
    if isinstance(x, Image.Image):
        return IMAGE
    array = _array(x) if _is_array(x) or isinstance(x, list | tuple) else np.asarray(0)
    if array.ndim == 1:
        return TOKENS if array.dtype.kind in "iu" else FEATURES
    return IMAGE if array.ndim == 3 else "x"


def _name_of_target(y: Any) -> str:
    scalar = isinstance(y, str | int) or (_is_array(y) and _array(y).ndim == 0 and _array(y).dtype.kind in "iubU")
    return LABEL if scalar else TARGET


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__")


def _array(value: Any) -> npt.NDArray[Any]:
    if hasattr(value, "detach"):  # a tensor, which may need a gradient or be on a GPU
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
        # As torch.tensor does with numbers of Python, which have no type.
        return array.astype(np.float32) if isinstance(value, list | tuple) and array.dtype == np.float64 else array
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"has a {type(value).__name__} that is no array: {error}", "convert it, such as with .float()"
        ) from None


def _numbers(name: str, value: Any) -> npt.NDArray[Any]:
    if not (_is_array(value) or isinstance(value, int | float | list | tuple)):
        kind = type(value).__name__
        fix = "convert it to numbers" + (", or name it label" if isinstance(value, str) else "")
        raise UserError(f"has {name!r} of type {kind} beside arrays", fix)
    return _array(value)


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """An image as uint8 (channels, height, width): one channel for a grey one, else three."""
    try:
        flat = eight_bits(image)
        grey = flat.mode in ("1", "L")
        pixels = np.asarray(flat.convert("L" if grey else "RGB"), np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"has an image that cannot be read: {error}", "leave the sample out, or convert the image") from None
    return pixels[None] if grey else pixels.transpose(2, 0, 1)
