"""Scalars of YAML with their text, so that a field for texts gets ``8``, ``True`` or ``1_000`` as they are written."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor


@dataclass(frozen=True)
class Written:
    """A number, a boolean or a date as YAML reads it, and its text."""

    value: Any
    text: str


class _Constructor(SafeConstructor):
    def written(self, node: Any) -> Written:
        kind = node.tag.rpartition(":")[2]
        return Written(getattr(self, f"construct_yaml_{kind}")(node), node.value)


for _kind in ("bool", "int", "float", "timestamp"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_kind}", _Constructor.written)


def parse(text: str) -> Any:
    """YAML 1.2 with such scalars as `Written`."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    return yaml.load(text)


def plain(value: Any) -> Any:
    """Parsed YAML as plain values."""
    return settled(value, Any)


def settled(value: Any, kind: Any) -> Any:
    """Parsed YAML as plain values for a field of this type, where it only takes texts with each scalar's text."""
    options = list(_options(kind))
    if isinstance(value, Written):
        return value.text if str in options and not _fits(value.value, options) else value.value
    if isinstance(value, list):
        items = next((get_args(option)[0] for option in options if get_origin(option) is list), Any)
        return [settled(item, items) for item in value]
    if not isinstance(value, dict):
        return value
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            fields = option.model_fields
            return {plain(key): settled(item, fields[key].annotation if key in fields else Any) for key, item in value.items()}
    keys, values = next((get_args(option) for option in options if get_origin(option) is dict), (Any, Any))
    return {settled(key, keys): settled(item, values) for key, item in value.items()}


def _options(kind: Any) -> Iterator[Any]:
    """The types of a union; of another type, itself."""
    if get_origin(kind) is Annotated:
        yield from _options(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for option in get_args(kind):
            yield from _options(option)
    else:
        yield kind


def _fits(value: Any, options: list[Any]) -> bool:
    numbers = (int, float) if float in options else ()
    fixed = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
    return type(value) in (*options, *numbers) or value in fixed
