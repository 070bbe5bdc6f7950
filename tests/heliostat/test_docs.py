"""The pages in docs/ name what there is."""

import re
import shlex

import pytest

from heliostat.cli import parser_of
from heliostat.config import Config
from heliostat.config_errors import _keys
from heliostat.datasets.sources import find_source
from heliostat.tuning.config import MAY_CHANGE, SweepConfig
from heliostat.workloads.config import CHANGEABLE, LENGTH, TrainConfig
from heliostat.workloads.foreign_keys import FOREIGN, WORDS
from tests.conftest import ROOT

KEYS = {*_keys(TrainConfig)}


def recipe() -> str:
    """The file for GitHub Actions in docs/ci.md."""
    return (ROOT / "docs/ci.md").read_text().split("```yaml\n")[1].split("```\n")[0]


def test_the_recipe_for_ci_is_the_file_that_init_writes_and_its_commands_have_their_options() -> None:
    """``make accept`` runs them."""
    assert recipe() == (ROOT / "heliostat/project/ci.yaml").read_text().replace("NAME", "churn")
    commands = re.findall(r"^[\s-]*(?:run: )?heliostat ((?:train|model) .*)$", (ROOT / "docs/ci.md").read_text(), re.MULTILINE)
    assert len(commands) == 5
    for words in map(shlex.split, commands):
        parser_of(words).parse_args(words)


def table(title: str) -> dict[str, list[str]]:
    """The rows of the table below a title of docs/config.md, by their first column."""
    section = (ROOT / "docs/config.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("| \n").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in rows}


@pytest.mark.parametrize(
    ("title", "kind", "changeable"), [("A run", TrainConfig, CHANGEABLE | LENGTH), ("A sweep", SweepConfig, MAY_CHANGE)]
)
def test_each_key_of_a_config_is_documented_with_its_default(title: str, kind: type[Config], changeable: set[str]) -> None:
    rows = table(title)
    assert rows.keys() == kind.model_fields.keys()
    assert {name for name, row in rows.items() if len(row) == 4 and row[3].strip()} == set(changeable)
    for name, row in rows.items():
        default = kind.model_fields[name].default
        if type(default) in (int, float, str, bool):
            assert row[1] == (str(default).lower() if isinstance(default, bool) else str(default)), name


def test_each_option_of_a_source_is_documented() -> None:
    rows = table("Sources of data")
    for name, needed in {
        "table": {"path": "t", "target": "y"},
        "images": {"path": "p"},
        "text": {"path": "p"},
        "huggingface": {"path": "p"},
    }.items():
        _, options = find_source(name, needed)
        assert re.findall(r"`(\w+)", rows[name][1]) == list(type(options).model_fields), name


def test_each_name_of_other_tools_is_documented_with_a_key_that_there_is() -> None:
    rows = [f"| {', '.join(f'`{name}`' for name in names.split(', '))} | {fix} |" for names, fix in WORDS.items()]
    assert "\n".join(rows) in (ROOT / "docs/migrating.md").read_text()
    known = {name for name in KEYS if "." not in name}
    assert not known & FOREIGN.keys(), "a key of ours would never be asked for"
    for fix in WORDS.values():
        keys = re.findall(r"\boptimizer\.\w+", fix) + re.findall(r"^write (\w+)(?=[,:]|$)", fix)
        assert {*keys} <= KEYS, fix
