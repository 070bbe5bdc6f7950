"""Errors of pydantic in a config as messages that name the field, the value and the fix."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from heliostat.errors import UserError, nearest

PLAIN = {
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing"), "a whole number"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping",
    "none_required": "null",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "too_short": "a list with at least {min_length}",
    "multiple_of": "a multiple of {multiple_of:g}",
}
"""What a value must be, for pydantic's types of errors."""
BRANCH = re.compile(r"(str|int|float|bool|none)|(dict|list|tuple|literal)\[.*\]")
"""What pydantic adds to a location for a type of several that a key may have."""


def explained(error: ValidationError, data: Mapping[str, Any], kind: type[BaseModel], prefix: str = "") -> list[UserError]:
    """An error a key that is wrong; ``prefix`` is the key of ``data`` in the file."""
    groups: dict[tuple[str, ...], list[Any]] = {}
    for each in error.errors():
        groups.setdefault(tuple(_path(_location(each, data), kind)), []).append(each)
    inner = {path[:n] for path in groups for n in range(1, len(path))}
    kept = [group for path, group in groups.items() if path not in inner or len(group[0]["loc"]) == len(path)]
    return [_explain(group, data, kind, prefix) for group in kept]


def _explain(group: list[Any], data: Any, kind: type[BaseModel], prefix: str) -> UserError:
    """Convert the pydantic errors of one key, one for each type that it may have, to a message with field, value and fix."""
    error = group[0]
    loc = _location(error, data)
    path = _path(loc, kind)
    shown = _with_names(loc, data)[: len(path)]
    name = ".".join([prefix, *shown] if prefix else shown) or "the config"
    owner = _owner(kind, path[:-1])
    if error["type"] == "extra_forbidden":
        return UserError(f"{name} is not a known key (value: {error['input']!r})", _nearest_key(path, kind, owner))
    if error["type"] == "missing":
        return UserError(f"{name} is missing", f"add it: {_describe(owner, path)}".removesuffix(": "))
    if error["type"] == "value_error" and len(group) == 1:
        message = error["msg"].removeprefix("Value error, ")
        what, _, fix = (message[:1].lower() + message[1:]).partition("; ")
        return UserError(f"{name}: {what}" if path or prefix else what, fix or _describe(owner, path) or "correct it")
    described = _describe(owner, path)
    if error["type"] == "string_type" and len(group) == 1:
        return _not_a_text(name, shown[-1], error["input"], described)
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    needed = PLAIN.get(error["type"], message[:1].lower() + message[1:]).format_map(error.get("ctx", {}))
    if error["type"] == "model_type" and (inner := _owner(kind, path)) is not owner:
        needed = f"a mapping of {', '.join(inner.model_fields)}"
    if len(group) > 1 and described:
        needed = described.partition(" (default")[0]
    value = _value_at(data, error, path)
    return UserError(f"{name} is {value!r}, but must be {needed}", f"set {name} to {described or needed}")


def _value_at(data: Any, error: Any, path: list[str]) -> Any:
    """The value of a key; that of an error in one of several possible types may be a part of it."""
    for part, name in zip(_location(error, data), path, strict=False):
        if isinstance(data, dict) and name in data:
            data = data[name]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return error["input"]
    return data


def _nearest_key(path: list[str], kind: type[BaseModel], owner: type[BaseModel]) -> str:
    """The fix for an unknown key: the nearest one beside it, or one of the same name elsewhere."""
    word = path[-1]
    foreign: Mapping[str, str] = getattr(kind, "foreign", {})
    if fix := foreign.get(".".join(path)) or foreign.get(word):
        return fix
    elsewhere = [dotted for dotted in _keys(kind) if dotted.rpartition(".")[2] == word]
    near = difflib.get_close_matches(word, owner.model_fields, n=1, cutoff=0.8)
    if elsewhere and not near:
        return f"did you mean {' or '.join(elsewhere)}?"
    return nearest(word, owner.model_fields)


def _keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All keys of a config type, dotted where they are nested."""
    for name in kind.model_fields:
        yield f"{prefix}{name}"
        if (inner := _owner(kind, [name])) is not kind:
            yield from _keys(inner, f"{prefix}{name}.")


def _not_a_text(name: str, key: str, value: Any, described: str) -> UserError:
    what = f"{name} is {value!r}, but must be a text"
    if isinstance(value, bool | int | float | date):
        return UserError(
            what, f"write it in quotes, {key}: '...', in a shell --set \"{name}='...'\"; {described}".removesuffix("; ")
        )
    if isinstance(value, dict) and len(value) == 1:
        return UserError(what, rf"if its key has dots, write each as \.: --set '{_dotted(name, key, value)}'")
    return UserError(what, f"set {name} to {described or 'a text'}")


def _dotted(name: str, key: str, value: Any) -> str:
    """The assignment that was meant by a value in which ``--set`` has split a key at its dots."""
    before = name.removesuffix(key)
    while isinstance(value, dict) and len(value) == 1:
        part, value = next(iter(value.items()))
        key += f".{part}"
    return before + key.replace(".", r"\.") + f"={value}"


def _location(error: Any, data: Any) -> list[Any]:
    """Where a pydantic error is, without the marks of an error in the key of a mapping, and of one of several types."""
    found = []
    for part in error["loc"]:
        inside = (isinstance(data, Mapping) and part in data) or (
            isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        )
        if part == "[key]" or (not inside and isinstance(part, str) and BRANCH.fullmatch(part)):
            continue
        found.append(part)
        data = data[part] if inside else None
    return found


def _with_names(loc: Iterable[Any], data: Any) -> list[str]:
    """An error's location, with the names of list items instead of their numbers."""
    names = []
    for part in loc:
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        data = data[part] if inside else None
        names.append(str(data["name"] if isinstance(part, int) and isinstance(data, dict) and "name" in data else part))
    return names


def _path(loc: Iterable[Any], kind: type[BaseModel]) -> list[str]:
    """The keys of an error's location, without the branch of a union that pydantic adds after the last key."""
    path: list[str] = []
    for part in map(str, loc):
        field = _owner(kind, path[:-1]).model_fields.get(path[-1]) if path else None
        holds_keys = field is None or _owner(kind, path) is not _owner(kind, path[:-1]) or "dict" in str(field.annotation)
        if path and not holds_keys:
            break
        path.append(part)
    return path


def _owner(kind: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """The config type that has the last key of a path, as far as the path leads through config types."""
    for part in path:
        field = kind.model_fields.get(part)
        options = [field.annotation, *get_args(field.annotation)] if field else []
        kind = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), kind)
    return kind


def _describe(owner: type[BaseModel], path: list[str]) -> str:
    field = next((owner.model_fields[p] for p in reversed(path) if p in owner.model_fields), None)
    if field is None:
        return ""
    if not (described := field.description or ""):
        return ""
    return described if field.is_required() or field.default is None else f"{described} (default: {field.default})"
