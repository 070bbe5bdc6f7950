"""Pages of the reference: a table of the keys of each kind of config, and of the options of each command."""

import argparse
from collections.abc import Iterator
from typing import Any

from heliostat.cli import COMMANDS, SUBCOMMANDS, parser_of
from heliostat.cluster.in_pod.metrics import GROUPS, PREFIX
from heliostat.completion import Schema, keys_of
from heliostat.tuning.monitored import SWEEP
from heliostat.workloads.run.monitored import RUN

MADE = "<!-- Made by `make docs` from the types of the configs and the parsers of the commands: change those. -->\n"
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
NAMES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
ELSEWHERE = {"train": "the keys of [a run](train.md), and `base`", "space": "see [sweeps](../sweeps.md)"}
"""Keys of a sweep whose inner keys are on another page."""
NOTHING: Any = type("Nothing", (dict,), {"get": lambda self, key, default=None: ""})()
"""Given values by which no option of a task or a source is known."""


def page(schema: Schema) -> str:
    """The keys of a kind of config, and below them the options that belong to the value of another key."""
    lines = [
        MADE,
        f"# {schema['title']}",
        "",
        "`*` in a key stands for the name of an item, as in `--set groups.gpu.max=4`.",
        "",
    ]
    lines += _table(schema, schema, "")
    for owner, prefix in _owners(schema, schema, ""):
        for each in owner.get("allOf", []):
            (by, wanted), (options, chosen) = (next(iter(each[part]["properties"].items())) for part in ("if", "then"))
            part = schema["$defs"][chosen["$ref"].rpartition("/")[2]]
            if part.get("properties"):
                lines += [
                    "",
                    f"## `{prefix}{options}` of {by} {wanted['const']}",
                    "",
                    *_table(part, schema, f"{prefix}{options}."),
                ]
    return "\n".join(lines) + "\n"


def _owners(part: Schema, root: Schema, prefix: str) -> Iterator[tuple[Schema, str]]:
    """The objects in a config and the beginnings of their keys."""
    yield part, prefix
    for key, field in part.get("properties", {}).items():
        for inner in _alternatives(field, root):
            if "properties" in inner and not prefix and key not in ELSEWHERE:
                yield inner, f"{key}."


def _table(part: Schema, root: Schema, prefix: str) -> list[str]:
    rows = []
    for key, inside in ELSEWHERE.items():
        if field := part.get("properties", {}).get(key):
            rows.append(f"| `{key}` | {inside} | required | {field['description']} |")
    for key, field in keys_of({**part, "$defs": root["$defs"]}, NOTHING):
        if key.partition(".")[0] not in ELSEWHERE:
            meaning = field.get("description", "").replace("|", "\\|")
            default = "the file's name" if key == "name" and not prefix else _default(field)
            rows.append(f"| `{prefix}{key}` | {_type(field, root)} | {default} | {meaning} |")
    return ["| key | type | default | meaning |", "|---|---|---|---|", *rows]


def _default(field: Schema) -> str:
    if "default" not in field:
        return "required"
    value = field["default"]
    shown = {True: "true", False: "false", None: "null", "": "an empty text"}
    return f"`{shown[value] if isinstance(value, bool | str | None) and value in shown else value}`"


def _type(field: Schema, root: Schema) -> str:
    """The type in words, with its limits."""
    return " or ".join(dict.fromkeys(_one(each, root) for each in _alternatives(field, root)))


def _alternatives(field: Schema, root: Schema) -> list[Schema]:
    if "$ref" in field:
        field = root["$defs"][field["$ref"].rpartition("/")[2]]
    return [inner for each in field["anyOf"] for inner in _alternatives(each, root)] if "anyOf" in field else [field]


def _one(field: Schema, root: Schema) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("pattern") == ":":
        return "`module:Name`"
    kind = field.get("type")
    if kind == "array":
        return f"list of {_type(field['items'], root)}" if field.get("items") else "list"
    if kind == "object":
        return f"mapping of {', '.join(f'`{key}`' for key in field['properties'])}" if "properties" in field else "mapping"
    text = "text" if isinstance(kind, list) and "string" in kind else NAMES.get(str(kind), "any value")
    bounds = [f"{words} {field[key]}" for key, words in BOUNDS.items() if key in field and text != "text"]
    return " ".join([text, " and ".join(bounds)]).strip()


def commands_page() -> str:
    """The options of every command, with an example."""
    lines = [MADE, "# Commands", "", "`heliostat COMMAND --help` prints the same.", ""]
    for name in COMMANDS:
        for words in ([name], *([name, word] for word in SUBCOMMANDS.get(name, {}))):
            for title, parser in parsers(words):
                lines += _command(title, parser)
    return "\n".join(lines)


UNITS = {
    "_timestamp_seconds": "seconds since the epoch", "_steps_per_second": "steps a second",
    "_samples_per_second": "samples a second", "_seconds": "seconds", "_ratio": "0 to 1",
    "_cost_per_hour": "money an hour", "_cost_total": "money", "_per_day": "money a day", "_loss": "the task's",
    "_best_value": "the metric's",
}  # fmt: skip
"""The unit of a metric for Prometheus by the end of its name, the first that fits; else it is a number of what it names."""


def metrics_page() -> str:
    """The metrics for Prometheus."""
    exported = {**RUN, **SWEEP}
    found = {
        **{f"ray_{name}": ("gauge", labels, meaning) for name, (labels, meaning) in exported.items()},
        **{f"{PREFIX}{name}": about for name, about in GROUPS.items()},
    }
    lines = [
        MADE,
        "# Metrics for Prometheus",
        "",
        "What scrapes them, dashboards and alerts: [monitoring](../monitoring.md).",
        "",
    ]
    lines += ["| name | type | labels | unit | meaning |", "|---|---|---|---|---|"]
    for name, (kind, labels, meaning) in found.items():
        unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "number")
        lines.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels) or 'none'} | {unit} | {meaning} |")
    return "\n".join(lines) + "\n"


def parsers(words: list[str]) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parser of a command, and those of its verbs."""
    parser = parser_of(words)
    for word in words:
        parser = _choices(parser)[word]
    yield " ".join(words), parser
    for verb, inner in _choices(parser).items():
        yield " ".join([*words, verb]), inner


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _command(title: str, parser: argparse.ArgumentParser) -> list[str]:
    actions = [each for each in parser._actions if each.help != argparse.SUPPRESS and each.dest != "help"]
    rows = [f"| {_spelling(each)} | {_help(each)} |" for each in actions if not isinstance(each, argparse._SubParsersAction)]
    table = ["| argument | meaning |", "|---|---|", *rows, ""] if rows else []
    epilog = [parser.epilog[0].upper() + parser.epilog[1:], ""] if parser.epilog else []
    return [f"## heliostat {title}", "", f"{parser.description}.", "", *table, *epilog]


def _spelling(action: argparse.Action) -> str:
    value = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper())
    if not action.option_strings:
        return f"`{value}`"
    takes = "" if action.nargs == 0 else f" [{value}]" if action.nargs == "?" else f" {value}"
    return ", ".join(f"`{option}{takes}`" for option in action.option_strings)


def _help(action: argparse.Action) -> str:
    return ((action.help or "") % {"default": action.default, "prog": "heliostat"}).replace("|", "\\|")
