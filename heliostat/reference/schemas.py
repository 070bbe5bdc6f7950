"""JSON schemas of the configs, by which editors complete and check them.

A schema refuses nothing that the command accepts: where a command reads a value in several forms (``scheduler: asha``, a number
in the place of a text), the schema has them all. Relations between keys, such as epochs or steps, are checked by the command
alone.
"""

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from heliostat.cluster.profile import Profile
from heliostat.cluster.team import Team
from heliostat.completion import keys_of
from heliostat.datasets.sources import ROWS, SOURCES, options_type
from heliostat.tuning.config import BASE, SweepConfig
from heliostat.workloads.config import DatasetConfig, TrainConfig
from heliostat.workloads.optimization.config import SCHEDULES, TYPES
from heliostat.workloads.optimization.schedule import SHAPES
from heliostat.workloads.task import bundled, find
from heliostat.workloads.tracking_config import KNOWN

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCES: dict[tuple[str, str], tuple[str, ...]] = {
    ("TrainConfig", "task"): tuple(bundled()),
    ("DatasetConfig", "source"): (*SOURCES, *ROWS),
    ("OptimizerConfig", "type"): tuple(TYPES),
    ("OptimizerConfig", "schedule"): tuple(SCHEDULES),
}
"""Keys, by type and name, that take one of these names, or ``module:Name``."""


class _Generator(GenerateJsonSchema):
    """Without titles, which repeat the keys; a text may be written as a number or as true, see `heliostat.spelling`."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def str_schema(self, schema: Any) -> JsonSchemaValue:
        return {**super().str_schema(schema), "type": ["string", "number", "boolean"]}


def schemas() -> dict[str, Schema]:
    """The schema of each kind of config, by its name."""
    train = _train()
    return {
        "train": _file(train, "A run: heliostat train"),
        "sweep": _file(_sweep(train), "A sweep: heliostat sweep"),
        "dataset": _file(_dataset(), "The data of a run: the key dataset of its config"),
        "profile": _file(_schema(Profile), "A cluster: heliostat up"),
        "team": _file(_schema(Team), "A team: heliostat team apply"),
    }


def _file(schema: Schema, title: str) -> Schema:
    """The schema of a file, whose name is the config's where it has none."""
    required = [key for key in schema.pop("required", []) if key != "name"]
    rest = {key: value for key, value in schema.items() if key != "title"}
    return {"$schema": DIALECT, "title": title, **rest, **({"required": required} if required else {})}


def _schema(kind: type[BaseModel]) -> Schema:
    schema = kind.model_json_schema(schema_generator=_Generator, ref_template="#/$defs/{model}")
    for name, part in {kind.__name__: schema, **schema.get("$defs", {})}.items():
        for key, names in REFERENCES.items():
            if key[0] == name:
                part["properties"][key[1]] = _reference(part["properties"][key[1]], names)
        part.pop("title", None)
    return schema


def _reference(field: Schema, names: tuple[str, ...]) -> Schema:
    """A key that takes one of these names, or one of the user's own; null too, if it could be."""
    null = [{"type": "null"}] if any(each.get("type") == "null" for each in field.get("anyOf", [])) else []
    kept = {key: value for key, value in field.items() if key not in ("anyOf", "type")}
    return {"anyOf": [{"enum": [*names]}, {"type": "string", "pattern": ":"}, *null], **kept}


def _train() -> Schema:
    schema = _schema(TrainConfig)
    _add_sources(schema, schema["$defs"]["DatasetConfig"])
    tasks = {name: find(name).Options for name in bundled()}
    _add_options(schema, schema, "task", "model", tasks)
    shapes = {name: options for name, (_, options) in SHAPES.items()}
    _add_options(schema, schema["$defs"]["OptimizerConfig"], "schedule", "schedule_options", shapes)
    items = schema["properties"]["tracking"]["anyOf"]
    items[0]["examples"] = [*KNOWN]
    return schema


def _dataset() -> Schema:
    schema = _schema(DatasetConfig)
    _add_sources(schema, schema)
    return schema


def _add_sources(schema: Schema, dataset: Schema) -> None:
    _add_options(schema, dataset, "source", "options", {name: options_type(name) for name in SOURCES})


def _add_options(schema: Schema, owner: Schema, key: str, options: str, kinds: Mapping[str, type[BaseModel]]) -> None:
    """Check the ``options`` of an object by the type that belongs to the value of its ``key``."""
    definitions = schema.setdefault("$defs", {})
    for name, kind in kinds.items():
        title = f"{key}-{name}"
        inner = _schema(kind)
        definitions.update(inner.pop("$defs", {}))
        inner["description"] = f"the {options} of {key} {name}"
        definitions[title] = inner
        owner.setdefault("allOf", []).append({
            "if": {"properties": {key: {"const": name}}, "required": [key]},
            "then": {"properties": {options: {"$ref": f"#/$defs/{title}"}}},
        })  # fmt: skip


def _sweep(train: Schema) -> Schema:
    """The schema of a sweep: ``train`` has any keys of a train config, of which none is required, and ``base``."""
    schema, base = _schema(SweepConfig), copy.deepcopy(train)
    definitions = base.pop("$defs")
    for each in (base, *definitions.values()):
        each.pop("required", None)  # not from the conditions in it
    base["properties"][BASE] = {"type": "string", "description": "the config to start from: a path, or a bundled name"}
    schema["properties"]["train"] = {"$ref": "#/$defs/train", "description": schema["properties"]["train"]["description"]}
    schema["$defs"] = {**definitions, **schema["$defs"], "train": base}
    space = schema["$defs"]["Nested"]
    space["properties"] = {key: space["additionalProperties"] for key, _ in keys_of(train)}
    return schema
