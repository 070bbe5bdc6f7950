"""What the shell proposes for a word: commands and options by argcomplete, and here the values of arguments.

All of it is known without the packages that train: a Tab takes as long as Python needs to start.
"""

import argparse
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCHEMAS = HERE / "schemas"
Schema = Mapping[str, Any]
Completer = Callable[..., list[str]]


def schema(name: str) -> dict[str, Any]:
    """The JSON schema of a kind of config: train, sweep, dataset or profile."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text())
    return found


def keys_of(root: Schema, given: Mapping[str, str] | None = None) -> Iterator[tuple[str, Schema]]:
    """The dotted keys of a config and the schema of each, as ``--set`` takes them; ``*`` stands for the name of an item.

    Args:
        root: the schema.
        given: values of keys by which options are known, such as ``{"task": "language-model"}``; else those of all.
    """
    yield from _keys(root, root, {} if given is None else given, "")


def _keys(part: Schema, root: Schema, given: Mapping[str, str], prefix: str) -> Iterator[tuple[str, Schema]]:
    for key, field in part.get("properties", {}).items():
        inner = [each for each in _alternatives(field, root) if "properties" in each]
        items = [each for each in _alternatives(field, root) if "name" in _items(each, root).get("properties", {})]
        if items:
            yield from _keys(_items(items[0], root), root, given, f"{prefix}{key}.*.")
        elif inner:
            yield from _keys(inner[0], root, given, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", field
            for options in _conditional(part, key, given):
                yield from _keys(_resolved(options, root), root, given, f"{prefix}{key}.")


def _conditional(part: Schema, key: str, given: Mapping[str, str]) -> Iterator[Schema]:
    """The options that a key takes for values of another key, or for its given one."""
    for each in part.get("allOf", []):
        (by, wanted), chosen = next(iter(each["if"]["properties"].items())), each["then"]["properties"]
        if key in chosen and given.get(by, wanted["const"]) == wanted["const"]:
            yield chosen[key]


def _alternatives(field: Schema, root: Schema) -> list[Schema]:
    field = _resolved(field, root)
    return [_resolved(each, root) for each in field["anyOf"]] if "anyOf" in field else [field]


def _items(field: Schema, root: Schema) -> Schema:
    return _resolved(field.get("items", {}), root)


def _resolved(part: Schema, root: Schema) -> Schema:
    found: Schema = root["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    return found


def values_of(field: Schema, root: Schema) -> list[str]:
    """The values that a key has by its schema, as texts."""
    alternatives = _alternatives(field, root)
    fixed = [value for each in alternatives for value in each.get("enum", [each["const"]] if "const" in each else [])]
    switch = ["true", "false"] if any(each.get("type") == "boolean" for each in alternatives) else []
    return [*map(str, fixed), *switch]


def assignments(kind: str, prefix: str, text: str) -> list[str]:
    """Completions of ``KEY=VALUE``.

    Args:
        kind: of the config: train, sweep or profile.
        prefix: what has been typed.
        text: of the config's file, which names the task, the source, and the items of lists.
    """
    root = schema(kind)
    given = dict(re.findall(r"\b(task|source): *['\"]?([\w-]+)", text))
    names = re.findall(r"\bname: *['\"]?([\w-]+)", text) or ["NAME"]
    proposed = []
    for pattern, field in keys_of(root, given):
        for key in [pattern.replace("*", name) for name in names] if "*" in pattern else [pattern]:
            if not prefix.startswith(f"{key}="):
                proposed.append(f"{key}=")
            else:
                proposed += [f"{key}={value}" for value in values_of(field, root)]
    return list(dict.fromkeys(each for each in proposed if each.startswith(prefix)))


def profiles(prefix: str = "", **_: Any) -> list[str]:
    """Profiles: of the working directory, of ``cluster/profiles``, and the bundled ones."""
    files = [path for path in Path().glob("*.yaml") if path.is_file()]
    own = [path for path in files if re.search(r"^groups:", path.read_text(errors="replace"), re.MULTILINE)]
    found = [*own, *Path("cluster/profiles").glob("*.yaml"), *(HERE / "cluster/profiles").glob("*.yaml")]
    return sorted({path.stem for path in found})


def runs(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Runs and sweeps in the storage of this machine."""
    storage = Path(getattr(parsed_args, "storage", None) or "runs")
    folders = storage.iterdir() if storage.is_dir() else ()
    return sorted(path.name for path in folders if any((path / file).exists() for file in ("config.yaml", "sweep.yaml")))


def models(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Models in the registry of a storage of this machine; after ``@`` their aliases."""
    folder = Path(getattr(parsed_args, "storage", None) or "runs", "models")
    names = sorted(path.name for path in folder.iterdir() if (path / "log").is_dir()) if folder.is_dir() else []
    return [f"{name}@{alias}" for name in names for alias in ("champion", "candidate")] if "@" in prefix else names


def services(prefix: str = "", **_: Any) -> list[str]:
    """Services of this user on this machine."""
    return sorted(path.stem for path in Path("~/.heliostat/services").expanduser().glob("*.json"))


def _limits(prefix: str = "", **_: Any) -> list[str]:
    return ["megabytes=", "rows=", "requests=", "seconds="]


def _to_serve(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    return [*runs(prefix, parsed_args), *models(prefix, parsed_args)]


def _configs(folder: str) -> Completer:
    def complete(prefix: str, **_: Any) -> list[str]:
        bundled = [path.stem for path in (HERE / folder).glob("*.yaml")]
        return [*bundled, *_files(prefix)]

    return complete


def _files(prefix: str, suffixes: tuple[str, ...] = (".yaml", ".yml")) -> list[str]:
    """Files with these suffixes, and folders, that begin so."""
    folder = prefix.rpartition("/")[0]
    found = sorted(Path(folder or ".").iterdir()) if Path(folder or ".").is_dir() else ()
    base = f"{folder}/" if folder else ""
    return [f"{base}{path.name}{'/' * path.is_dir()}" for path in found if path.is_dir() or path.suffix in suffixes]


def _folders(prefix: str, **_: Any) -> list[str]:
    return _files(prefix, ())


def _to_open(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    return [*runs(prefix, parsed_args), *_folders(prefix)]


def _sources(prefix: str = "", **_: Any) -> list[str]:
    root = schema("dataset")
    return values_of(root["properties"]["source"], root)


def _source_options(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The options of the source that is named before."""
    found = assignments("dataset", f"options.{prefix}", f"source: {parsed_args.source}")
    return [each.removeprefix("options.") for each in found]


def _set(kind: str) -> Completer:
    def complete(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        return assignments(kind, prefix, _text(kind, parsed_args))

    return complete


def _text(kind: str, args: argparse.Namespace) -> str:
    """The config that a command line names, unparsed: completion does not wait for a YAML parser."""
    name = str(getattr(args, "profile" if kind == "profile" else "config", None) or "")
    folders = {"train": ["workloads/configs"], "sweep": ["tuning/configs"], "profile": ["cluster/profiles"]}[kind]
    places = [Path(name), *(base / folder / f"{name}.yaml" for folder in folders for base in (Path(), HERE))]
    places.insert(1, Path(f"{name}.yaml"))
    path = next((path for path in places if name and path.is_file()), None)
    return path.read_text(errors="replace") if path else ""


def attach(parser: argparse.ArgumentParser, command: str, word: str = "") -> None:
    """Add what is proposed to the arguments of a command's parser and of its subcommands, of which ``word`` is one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner_word, inner in action.choices.items():
                attach(inner, command, inner_word)
        elif completer := _completer(command, word, action):
            action.completer = completer  # type: ignore[attr-defined]


def _completer(command: str, word: str, action: argparse.Action) -> Completer | None:
    if own := OWN.get(command, {}).get(action.dest):
        return own
    if command == "model" and (action.dest == "name" or (word in OF_MODELS and action.dest in ("run_name", "new"))):
        return models
    if action.dest == "set" and command not in OTHER_KEYS:
        return _set(command if command in ("train", "sweep") else "profile")
    if action.dest in ("profile", "on"):
        return profiles
    if action.dest == "config":
        return _configs({"sweep": "tuning/configs"}.get(command, "workloads/configs"))
    if action.dest in ("run_name", "name", "names") and command in RUNS:
        return runs
    return None


OF_MODELS = ("list", "promote", "rollback", "diff")
"""Second words of ``model`` whose argument is a model."""
OWN: Mapping[str, Mapping[str, Completer]] = {
    "serve": {"set": _limits, "model": _to_serve, "name": services},
    "dataset": {"source": _sources, "set": _source_options, "out": _folders},
    "runs": {"place": _to_open},
}
"""By command what is proposed for arguments of its own."""
OTHER_KEYS = ("predict", "runs")
"""Commands whose ``--set`` takes keys of no config."""
RUNS = ("evaluate", "predict", "model", "report", "runs", "sweep", "cost", "why")
"""Commands whose argument is a run or a sweep."""


def with_completers(
    parser: argparse.ArgumentParser, typed: list[str], subcommands: Mapping[str, Iterable[str]] | None = None
) -> argparse.ArgumentParser:
    """Add the completers to the command that has been typed, and its second words."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and typed and typed[0] in action.choices:
            command = action.choices[typed[0]]
            attach(command, typed[0])
            if len(typed) == 1:
                _add_words(command, [*(subcommands or {}).get(typed[0], ())])
    return parser


def _add_words(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Propose these words, too, for the first argument, which a command may lack."""
    known = next((each for each in parser._actions if not each.option_strings), None)
    argument = known or parser.add_argument("word", nargs="?")
    before = getattr(argument, "completer", None)
    if words:
        argument.completer = lambda **given: [*words, *(before(**given) if before else ())]  # type: ignore[attr-defined]


def complete(build: Callable[[list[str]], argparse.ArgumentParser], subcommands: Mapping[str, Iterable[str]]) -> None:
    """Answer the shell, which has set ``_ARGCOMPLETE``, and exit.

    Args:
        build: makes the parser for the typed words.
        subcommands: the second words of commands.
    """
    import argcomplete
    from argcomplete.lexers import split_line

    *_, words, _ = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))
    typed = words[int(os.environ["_ARGCOMPLETE"]) :]
    argcomplete.autocomplete(with_completers(build(typed), typed, subcommands), always_complete_options=False)
