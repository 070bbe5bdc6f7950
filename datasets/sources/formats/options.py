"""How a table's files are to be read, where that is not to be found out: the option ``read``."""

import codecs
from typing import Annotated, Literal

from pydantic import AfterValidator
from pydantic import Field as Key

from heliostat.config import Config

KEY = "dataset.options.read"


def _separator(value: str) -> str:
    value = {"tab": "\t", "\\t": "\t", "blanks": " "}.get(value, value)
    if len(value) != 1 or value.isalnum() or value in "\"'\r\n+-." or not value.isascii():
        raise ValueError(f"is {value!r}, which cannot be between cells; write one of , ; | tab or blanks")
    return value


def _encoding(value: str) -> str:
    try:
        name = codecs.lookup(value).name
        "a".encode(name)
    except LookupError:
        raise ValueError(f"is {value!r}, which is not an encoding; write one such as utf-8, cp1252 or utf-16") from None
    return name


class Read(Config):
    """How csv files are written, and what stands for a missing value; what is not set is found out."""

    separator: Annotated[str, AfterValidator(_separator)] | None = Key(
        None, description="what is between the cells of a csv file, such as ; or tab or blanks"
    )
    decimal: Literal[".", ","] | None = Key(None, description="the decimal sign, a point or a comma")
    thousands: Literal[",", ".", " ", "'", "_"] | None = Key(None, description="what separates thousands, such as . in 1.234,5")
    quote: Literal['"', "'", "none"] | None = Key(None, description="what is around cells with separators, or none")
    encoding: Annotated[str, AfterValidator(_encoding)] | None = Key(None, description="such as utf-8, cp1252 or utf-16")
    header: int | None = Key(None, ge=0, description="the line of the names of the columns, counted from 1; 0: there is none")
    comment: Annotated[str, Key(min_length=1, max_length=8)] | None = Key(
        None, description="how lines begin that are left out, such as #"
    )
    missing: tuple[str, ...] = Key((), strict=False, description="more texts that stand for a missing value, such as [unknown]")
    names: tuple[str, ...] = Key((), strict=False, description="the names of the columns of a csv file that has none")

    @property
    def of_csv(self) -> list[str]:
        """The keys that are set and are for csv files only."""
        return [name for name in type(self).model_fields if name != "missing" and getattr(self, name) not in (None, ())]
