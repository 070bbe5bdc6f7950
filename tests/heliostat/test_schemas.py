"""The JSON schemas: they are those of the types, take every bundled config, and refuse nothing that the command accepts."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from heliostat.cluster.profile import BUNDLED, Profile
from heliostat.completion import schema
from heliostat.config import Config, as_config, read_mapping, validate
from heliostat.datasets.sources import find_source
from heliostat.errors import UserError
from heliostat.reference.files import generated
from heliostat.spelling import Written, settled
from heliostat.tuning.config import SweepConfig, base_of
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.optimization.schedule import schedule_of
from heliostat.workloads.task import find
from tests.conftest import ROOT

KINDS = ("train", "sweep", "dataset", "profile", "team")
VALIDATORS = {name: Draft202012Validator(schema(name)) for name in KINDS}
FILES = [
    *(("train", path) for path in sorted((ROOT / "workloads/configs").glob("*.yaml"))),
    *(("sweep", path) for path in sorted((ROOT / "tuning/configs").glob("*.yaml"))),
    *(("profile", path) for path in sorted(BUNDLED.glob("*.yaml"))),
    ("train", ROOT / "heliostat/project/train.yaml"),
    ("sweep", ROOT / "heliostat/project/sweep.yaml"),
]


def refused(kind: str, data: dict[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATORS[kind].iter_errors(data)]


def test_the_files_are_what_the_types_give() -> None:
    for path, text in generated().items():
        assert path.read_text() == text, f"{path.name} is not current: make docs"


def test_each_key_in_the_reference_has_a_type_a_default_and_a_meaning() -> None:
    for path in sorted((ROOT / "docs/reference").glob("*.md")):
        for line in path.read_text().splitlines():
            if line.startswith("| "):
                assert all(cell.strip() for cell in line.replace("\\|", "").strip("|").split("|")), line


@pytest.mark.parametrize(("kind", "path"), FILES, ids=lambda value: getattr(value, "name", value))
def test_every_config_of_ours_fits_its_schema_and_names_it(kind: str, path: Path) -> None:
    assert refused(kind, read_mapping(path)) == []
    first = path.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    if "project" not in path.parts:
        place = path.parent.resolve() / first.partition("=")[2]
        assert place.resolve() == ROOT / f"heliostat/schemas/{kind}.json"


FORMS: list[tuple[str, dict[str, Any]]] = [
    ("train", {"task": "mine:Task", "dataset": {"source": "mine:rows", "options": {"any": 1}}, "start_from": "runs/a"}),
    ("train", {"task": "mine:Task", "tracking": "wandb", "notify": "https://example.com", "workers": [1, 4]}),
    ("train", {"tracking": {"mlflow": None}, "notify": [{"env": "HOOK"}, "https://example.com"], "metric": {"cost": "lower"}}),
    ("train", {"name": 7, "storage": True, "requirements": "needs.txt", "callbacks": ["a:B", {"a:C": {"x": 1}}]}),
    ("train", {"optimizer": {"type": "torch.optim:RMSprop", "options": {"alpha": 0.9}, "groups": [{"match": "a.*"}]}}),
    ("train", {"dataset": {"source": "table", "options": {"path": "t.csv", "target": "y", "split": {"by": "column",
     "column": "part", "values": {"0": "train", "1": "val"}}}}}),
    ("sweep", {"scheduler": "none", "metric": {"accuracy": "max", "seconds": "min"}}),
    ("sweep", {"space": {"optimizer": {"lr": {"uniform": [0, 1]}}, "model.width": {"choice": [1]}}, "tracking": "mlflow"}),
    ("profile", {"head": {"cpu": 2, "memory": "8Gi", "node_selector": {"pool": 5}}}),
    ("profile", {"env": {"A": 1, "B": {"secret": "s", "key": "k"}}}),
    ("profile", {"budget": "50 USD/day"}),
    ("profile", {"annotations": {"a": True}, "namespace": None, "idle_shutdown_seconds": None}),
]  # fmt: skip
"""Values as they may be written, over a config that is complete."""
COMPLETE: dict[str, dict[str, Any]] = {
    "train": {"task": "image-classification", "dataset": {"source": "digits"}, "epochs": 1, "name": "a"},
    "sweep": {
        "train": {"base": "digits"},
        "space": {"seed": {"integer": [0, 3]}},
        "trials": 2,
        "name": "a",
        "algorithm": "random",
    },
    "profile": {"groups": [{"name": "cpu", "max": 2}], "storage": {"claim": "runs"}, "name": "a"},
}
TYPES: dict[str, type[Config]] = {"train": TrainConfig, "sweep": SweepConfig, "profile": Profile}


def as_in_yaml(value: Any) -> Any:
    """A value as it is read from a file, where numbers and booleans keep their text."""
    if isinstance(value, dict):
        return {key: as_in_yaml(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_in_yaml(inner) for inner in value]
    return Written(value, json.dumps(value)) if isinstance(value, bool | int | float) else value


def accept(kind: str, data: dict[str, Any]) -> None:
    """Check a config as its command does before anything is started.

    Raises:
        UserError: it is refused.
    """
    config = validate(settled(as_in_yaml(data), TYPES[kind]), TYPES[kind])
    train = as_config(base_of(config), TrainConfig) if isinstance(config, SweepConfig) else config
    if not isinstance(train, TrainConfig):
        return
    if ":" not in train.task:
        validate(train.model, find(train.task).Options, "model")
    if train.dataset.source and ":" not in train.dataset.source:
        find_source(train.dataset.source, train.dataset.options)
    if ":" not in train.optimizer.schedule:
        schedule_of(train.optimizer)


@pytest.mark.parametrize(("kind", "keys"), FORMS)
def test_each_form_that_the_command_takes_fits_the_schema(kind: str, keys: dict[str, Any]) -> None:
    data = COMPLETE[kind] | keys
    accept(kind, data)
    assert refused(kind, data) == []


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70_000),
    st.floats(-2, 2),
    st.sampled_from(["", "x", "a:B", "8Gi", "500m", "auto"]),
    st.lists(st.integers(-1, 3), max_size=3),
    st.dictionaries(st.sampled_from(["name", "x", "lr"]), st.integers(-1, 2), max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a config."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def broken(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    found = copy.deepcopy(data)
    *parents, last = path
    inner = found
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return found


FULL = {
    kind: json.loads(as_config(COMPLETE[kind], TYPES[kind]).model_dump_json()) | ({} if kind != "sweep" else COMPLETE[kind])
    for kind in TYPES
}  # fmt: skip
"""The complete configs with every default written out."""


@pytest.mark.parametrize("kind", TYPES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_the_schema_refuses_the_command_refuses(kind: str, data: Any) -> None:
    path = data.draw(st.sampled_from([*places(FULL[kind]), ("unknown",)]))
    config = broken(FULL[kind], path, data.draw(JUNK))
    if found := refused(kind, config):
        note(f"the schema refuses {found}")
        with pytest.raises(UserError):
            accept(kind, config)


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        ("train", {"task": "image-clasification"}, "$.task"),
        ("train", {"model": {"widht": 3}}, "'widht'"),
        ("train", {"dataset": {"source": "table", "options": {"path": "t.csv"}}}, "'target' is a required property"),
        ("train", {"optimizer": {"lr": 0}}, "$.optimizer.lr"),
        ("sweep", {"space": {"optimizer": {"lr": {"unifrom": [0, 1]}}}}, "$.space"),
        ("sweep", {"train": {"base": "digits", "epcohs": 3}}, "'epcohs'"),
        ("profile", {"head": {"memory": "8"}}, "$.head.memory"),
        ("profile", {"groups": [{"name": "gpu", "max": 2, "market": "spto"}]}, "$.groups[0].market"),
    ],
)
def test_an_editor_underlines_what_is_wrong(kind: str, keys: dict[str, Any], message: str) -> None:
    data = COMPLETE[kind] | keys
    assert message in "\n".join(refused(kind, data))
    with pytest.raises(UserError):
        accept(kind, data)
