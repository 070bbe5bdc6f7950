"""Config files: reads YAML 1.2 as frozen typed values; each error names the field, the value and the fix."""

import difflib
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from heliostat.difference import ABSENT, difference
from heliostat.errors import UserError, combined
from heliostat.spelling import parse, plain, settled


class Config(BaseModel):
    """The base of every config type: unknown keys are errors, types are not coerced, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def load(
    path: str | Path,
    kind: type[C],
    overrides: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> C:
    """Read a YAML file, at a path or a URI, as ``kind``; ``overrides`` are ``dotted.key=value`` and win over the file.

    Raises:
        UserError: the file is missing, is not YAML, is not a mapping, or does not fit ``kind``.
    """
    data = {**(defaults or {}), **_read(path)}
    for override in overrides:
        _override(data, override)
    return validate(settled(data, kind), kind)


def as_config(config: str | Path | Mapping[str, Any] | C, kind: type[C], overrides: Iterable[str] = (), suffix: str = "") -> C:
    """A config from a file, from a mapping of its keys, or as it is; ``overrides`` win in all cases.

    A file's default name is its own without the ending, with ``suffix``.

    Raises:
        UserError: see `load`.
    """
    if isinstance(config, str | Path):
        return load(config, kind, overrides, {"name": f"{Path(config).stem}{suffix}"})
    data = dict(config) if isinstance(config, Mapping) else config.model_dump(mode="json")
    overrides = [*overrides]
    if not isinstance(config, Mapping) and not overrides:
        return config
    for override in overrides:
        _override(data, override)
    return validate(settled(data, kind), kind)


def config_path(config: str, folder: str) -> str:
    """The path of a config: as given, or of the one in the package that is called so, such as ``digits``."""
    name = Path(config).stem
    place = Path(__file__).parent / folder / f"{name}.yaml"
    is_bundled = config in (name, f"{folder}/{name}.yaml") and not Path(config).exists() and place.is_file()
    return str(place) if is_bundled else config


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, at a path or a URI."""
    data: dict[str, Any] = plain(_read(path))
    return data


def _read(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, with its numbers and booleans as they are written."""
    try:
        data = parse(_text(str(path)))
    except FileNotFoundError:
        folder, name = Path(path).parent, Path(path).name
        near = difflib.get_close_matches(name, _yaml_files(folder), n=1, cutoff=0.4)
        hint = f"did you mean {folder / near[0]}?" if near else "give the path of a YAML file"
        raise UserError(f"config file {path} does not exist", hint) from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"config file {path} cannot be read: {reason}", "give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise UserError(f"config file {path} is not text", "give the path of a YAML file") from None
    except (YAMLError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"config file {path} is not valid YAML: {detail}", "correct that line") from None
    if not isinstance(data, dict):
        kind = "empty" if data is None else f"a {type(plain(data)).__name__}"
        raise UserError(f"config file {path} is {kind}, but must be a mapping", "write it as lines of `key: value`")
    return data


def _text(path: str) -> str:
    if "://" not in path:
        return Path(path).read_text()
    # Imported here: pyarrow takes 0.1 s, and few configs are in an object store.
    from heliostat.folder import Folder, split

    folder, name = split(path)
    return Folder.at(folder).read(name).decode()


def validate(data: Mapping[str, Any], kind: type[C], prefix: str = "") -> C:
    """Validate ``data`` as ``kind``; ``prefix`` is its key in the file, for messages."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        groups: dict[tuple[str, ...], list[Any]] = {}
        for each in error.errors():
            groups.setdefault(tuple(_path(_location(each), kind)), []).append(each)
        found = [_explain(group, data, kind, prefix) for group in groups.values()]
        raise combined(found, prefix or "the config") from None


def assignments(overrides: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` texts into a mapping."""
    data: dict[str, Any] = {}
    for override in overrides:
        _override(data, override)
    found: dict[str, Any] = plain(data)
    return found


def dump(config: Config) -> str:
    """The config as YAML, in the order of its fields."""
    return to_yaml(config.model_dump(mode="json"))


def to_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML, in its order."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 1 << 20  # folded lines would change spaces
    text = io.StringIO()
    yaml.dump(dict(data), text)
    return text.getvalue()


def digest(data: Any) -> str:
    """A short hash of plain data that does not depend on the order of its keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def nearest(word: str, known: Iterable[str]) -> str:
    """The fix for an unknown name: the nearest known one, or the list of them."""
    known = sorted(known)
    if not known:
        return "remove it: there is none to choose"
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"use one of: {', '.join(known)}"


def _yaml_files(folder: Path) -> list[str]:
    return [p.name for p in folder.glob("*.yaml")] if folder.is_dir() else []


def _override(data: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = [key.replace(r"\.", ".") for key in re.split(r"(?<!\\)\.", dotted)]
    if not equals or not all(keys):
        raise UserError(f"--set {override!r} is not an assignment", "write it as --set optimizer.lr=0.01")
    try:
        value = parse(text)
    except (YAMLError, ValueError):
        raise UserError(f"--set {override!r} has a value that is not YAML", "put quotes around it") from None
    *parents, key = keys
    while parents:
        parent = parents.pop(0)
        child = data.get(parent)
        # Copies, so that the caller's defaults are not changed.
        if isinstance(child, list) and parents:
            data[parent] = [dict(item) if isinstance(item, dict) else item for item in child]
            data = _item_named(data[parent], parents.pop(0), override)
        else:
            data[parent] = dict(child) if isinstance(child, dict) else {}
            data = data[parent]
    data[key] = value


def _item_named(items: list[Any], name: str, override: str) -> dict[str, Any]:
    """The item of a list that has this name: ``--set groups.gpu.max=4``."""
    named = {str(plain(item["name"])): item for item in items if isinstance(item, dict) and "name" in item}
    if name not in named:
        raise UserError(f"--set {override!r}: no item has the name {name}", nearest(name, named))
    found: dict[str, Any] = named[name]
    return found


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
    "multiple_of": "a multiple of {multiple_of:g}",
}
"""What a value must be, for pydantic's types of errors."""


def _explain(group: list[Any], data: Any, kind: type[BaseModel], prefix: str) -> UserError:
    """Convert the pydantic errors of one key, one for each type that it may have, to a message with field, value and fix."""
    error = group[0]
    loc = _location(error)
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
    for part, name in zip(_location(error), path, strict=False):
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


def _location(error: Any) -> list[Any]:
    """Where a pydantic error is, without the mark of an error in the key of a mapping."""
    return [part for part in error["loc"] if part != "[key]"]


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


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """A line for each key, dotted where it is nested, in which a config differs from the stored one."""
    # The order of a list in a config has a meaning: nothing is matched by name.
    changes = difference(stored, current, keys=())
    return [f"{change.path}: {_value(change.old)} there, {_value(change.new)} now" for change in changes]


def _value(value: Any) -> str:
    return "absent" if value is ABSENT else str(value)
