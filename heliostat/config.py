"""Config files: reads YAML 1.2 as frozen typed values; each error names the field, the value and the fix."""

import difflib
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError

from heliostat.config_errors import explained
from heliostat.difference import ABSENT, difference, written
from heliostat.errors import UserError, combined
from heliostat.errors import nearest as nearest  # exported, too
from heliostat.spelling import parse, plain, settled


class Config(BaseModel):
    """The base of every config type: unknown keys are errors, types are not coerced, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    foreign: ClassVar[Mapping[str, str]] = {}
    """What to do, by the names that other tools have for keys, at any depth, or dotted for one place."""


C = TypeVar("C", bound=Config)


def load(
    path: str | Path,
    kind: type[C],
    overrides: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> C:
    """Read a YAML file, at a path or a URI, as ``kind``; ``overrides`` are ``dotted.key=value`` and win over the file.

    The place of the path may have the config itself, as a JSON object: so a job gets one that is in no file.

    Raises:
        UserError: the file is missing, is not YAML, is not a mapping, or does not fit ``kind``.
    """
    data = _parsed(str(path)) if is_inline(path) else {**(defaults or {}), **_read(path)}
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
    # Without defaults: one may depend on a key that is overridden.
    data = dict(config) if isinstance(config, Mapping) else config.model_dump(mode="json", exclude_unset=True)
    overrides = [*overrides]
    if not isinstance(config, Mapping) and not overrides:
        return config
    for override in overrides:
        _override(data, override)
    return validate(settled(data, kind), kind)


def is_inline(config: str | Path) -> bool:
    """Whether a config is given as a JSON object in the place of a path."""
    return str(config).startswith("{")


def config_path(config: str, folder: str) -> str:
    """The path of a config: as given, or of the one in the package that is called so, such as ``digits``.

    Raises:
        UserError: it is a name alone, and neither a file nor such a config.
    """
    if is_inline(config):
        return config
    if Path(config).is_file():
        return config
    places = Path(__file__).parent / folder
    bundled = [place.stem for place in places.glob("*.yaml")]
    if (name := Path(config).stem) in bundled and config in (
        name,
        f"{folder}/{name}.yaml",
    ):  # also beside a folder of that name
        return str(places / f"{name}.yaml")
    if Path(config).name == config == name and not Path(config).exists():
        own = _yaml_files(Path())
        hint = f"did you mean {name}.yaml?" if f"{name}.yaml" in own else nearest(name, [*bundled, *own])
        raise UserError(f"there is no config {config}", f"{hint} Or give the path of a YAML file")
    return config


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
    except DuplicateKeyError as error:
        key = str(error.problem).partition('"')[2].partition('"')[0]
        raise UserError(
            f"config file {path} has the key {key!r} twice, again in line {error.problem_mark.line + 1}", "leave one out"
        ) from None
    except (YAMLError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"config file {path} is not valid YAML: {detail}", "correct that line") from None
    if not isinstance(data, dict):
        kind = "empty" if data is None else f"a {type(plain(data)).__name__}"
        raise UserError(f"config file {path} is {kind}, but must be a mapping", "write it as lines of `key: value`")
    return data


def _parsed(text: str) -> dict[str, Any]:
    """A config that is given as a JSON object."""
    try:
        data: dict[str, Any] = parse(text)
    except (YAMLError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"the config {text[:60]} is not a JSON object: {detail}", "give the path of a YAML file") from None
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
        raise combined(explained(error, data, kind, prefix), prefix or "the config") from None


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


def _yaml_files(folder: Path) -> list[str]:
    return [p.name for p in folder.glob("*.yaml")] if folder.is_dir() else []


def _override(data: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = [key.replace(r"\.", ".") for key in re.split(r"(?<!\\)\.", dotted)]
    if not equals or not all(keys):
        raise UserError(f"--set {override!r} is not an assignment", "write it as --set optimizer.lr=0.01")
    try:
        # A single sign is that sign, not YAML: read.decimal=,
        value = text if len(text) == 1 and not text.isalnum() and text != "~" else parse(text)
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


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """A line for each key, dotted where it is nested, in which a config differs from the stored one."""
    # The order of a list in a config has a meaning: nothing is matched by name.
    changes = difference(stored, current, keys=())
    return [f"{change.path}: {_value(change.old)} there, {_value(change.new)} now" for change in changes]


def _value(value: Any) -> str:
    return "absent" if value is ABSENT else written(value)
