"""The settings of a call: a config as a file, a dictionary or an object, and keys that override it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from heliostat.config import Config, as_config, config_path
from heliostat.errors import UserError

C = TypeVar("C", bound=Config)


def overrides_of(overrides: Iterable[str], keys: Mapping[str, Any]) -> list[str]:
    """All overrides as ``dotted.key=value``: the keys of a call come last, and a mapping is merged into the config's.

    Raises:
        UserError: the overrides are one text, or a value is not plain data.
    """
    if isinstance(overrides, str):
        raise UserError(f"overrides is {overrides!r}, but must be a list", f"write [{overrides!r}], or the key as a parameter")
    return [*overrides, *(f"{key}={value}" for key, value in _flat(keys))]


def config_of(
    config: str | Path | Mapping[str, Any] | C, kind: type[C], folder: str, overrides: list[str], suffix: str = ""
) -> C:
    """The config of a call, as its command reads it: a bundled one has a name, and a file's default name is its own.

    Args:
        config: the path of a file, the name of a bundled one in ``folder``, a dictionary with its keys, or a config.
        kind: of the config.
        folder: of the bundled ones.
        overrides: ``dotted.key=value``.
        suffix: of the default name.

    Raises:
        UserError: the file does not exist, or a key is wrong.
    """
    if isinstance(config, str | Path):
        return as_config(config_path(str(config), folder), kind, overrides, suffix)
    if isinstance(config, Mapping):
        return as_config({str(key): plain(value, str(key)) for key, value in config.items()}, kind, overrides)
    if not isinstance(config, kind):
        what = f"config is {type(config).__name__}, but must be a path, a dictionary or a {kind.__name__}"
        raise UserError(what, f"give the path of a file, such as {folder}/digits.yaml")
    return as_config(config, kind, overrides)


def plain(value: Any, key: str) -> Any:
    """A value as YAML could hold it: numbers of NumPy, tuples and paths as plain ones.

    Raises:
        UserError: it is something else; ``key`` has it.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, key) for item in value]
    if isinstance(value, Config):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str | bool | int | float) and getattr(value, "shape", None) == ():
        value = value.item()  # a scalar of NumPy or torch
    if value is None or type(value) in (str, bool, int, float):
        return value
    for base in (str, bool, int, float):
        if isinstance(value, base):  # a subclass, such as numpy.float64
            return base(value)
    raise UserError(f"{key} is {value!r}, but must be a number, a text, a list or a mapping", "write it as in a config file")


def _flat(keys: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """The keys with dots, and their values as JSON, which is YAML."""
    for name, value in keys.items():
        key = above + str(name).replace(".", r"\.")
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{key}.")
        else:
            yield key, json.dumps(plain(value, key))


def inline(config: Mapping[str, Any] | Config) -> str:
    """A config as one line, which `heliostat.config.load` reads in the place of a path."""
    return json.dumps(plain(config, "config"))
