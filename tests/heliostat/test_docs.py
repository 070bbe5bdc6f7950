"""The pages in docs/ name what there is: commands, keys, messages, links."""

import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import heliostat
from heliostat.cli import parser_of
from heliostat.config import Config
from heliostat.config_errors import _keys
from heliostat.datasets.sources import find_source
from heliostat.tuning.config import MAY_CHANGE, SweepConfig
from heliostat.workloads.config import CHANGEABLE, LENGTH, TrainConfig
from heliostat.workloads.foreign_keys import FOREIGN, WORDS
from tests.conftest import ROOT
from tests.heliostat.test_schemas import VALIDATORS
from tests.pages import PAGES, Block, blocks

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


BESIDE = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Pages of the site that are beside docs/."""
LINK = re.compile(r"\]\(([^)\s#]*)(#[^)\s]*)?\)")
BLOCKS = [block for page in PAGES for block in blocks(page)]


def words(line: str) -> Iterator[list[str]]:
    """The words of each command of ours in a line for a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.commenters, lexer.whitespace_split = "#", True
    for ends, found in groupby(lexer, lambda word: set(word) <= set("&|;()")):
        if not ends and (command := [*found])[0] == "heliostat":
            yield command[1:]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's titles."""
    titles = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_each_link_leads_to_a_file_and_a_title() -> None:
    for page in [*PAGES, *(ROOT / name for name in BESIDE), *(ROOT / "docs/reference").glob("*.md")]:
        for path, anchor in LINK.findall(page.read_text()):
            target = (page.parent / path).resolve() if path else page
            if "://" not in path:
                assert target.is_file(), f"{page.name}: {path}"
                assert not anchor or anchor[1:] in anchors(target), f"{page.name}: {path}{anchor}"


def test_the_site_has_every_page_once() -> None:
    found = re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(found) == sorted(pages | {*BESIDE.values()})
    hooks = (ROOT / "docs/site/hooks.py").read_text()
    assert all(f'"{name}": "{page}"' in hooks for name, page in BESIDE.items())


def test_each_command_in_the_pages_is_one_that_there_is() -> None:
    """Its words and options, and the keys of its --set."""
    for block in BLOCKS:
        for command in (command for line in block.commands if "heliostat " in line for command in words(line)):
            try:
                args, unknown = parser_of(command).parse_known_args(command)
            except SystemExit:
                pytest.fail(f"{block}: heliostat {' '.join(command)}")
            assert not unknown, f"{block}: {unknown}"
            keys = {text.partition("=")[0] for text in getattr(args, "set", None) or []} if args.command == "train" else set()
            keys = {key for key in keys if not key.startswith(("model.", "dataset.options."))}
            assert keys <= KEYS, f"{block}: {keys - KEYS}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_each_config_in_the_pages_fits_its_schema(block: Block) -> None:
    """Of a part of a config, what is there."""
    data: dict[str, Any] = YAML(typ="safe", pure=True).load(block.text) or {}
    of_kinds = {
        "members": "team",
        "groups": "profile",
        "monitoring": "profile",
        "pod": "profile",
        "space": "sweep",
        "budget": "profile",
    }
    kind = next((kind for key, kind in of_kinds.items() if key in data), "train")
    if not {*data} <= VALIDATORS[kind].schema["properties"].keys():
        assert "jobs" in data or block.file.startswith("."), f"{block} is no config"  # but of GitHub, or of GitLab
        return
    wrong = [error.message for error in VALIDATORS[kind].iter_errors(data) if error.validator != "required"]
    assert wrong == []


def test_the_python_and_the_scripts_in_the_pages_compile() -> None:
    for block in BLOCKS:
        if block.language in ("sh", "bash"):
            done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
            assert done.returncode == 0, f"{block}: {done.stderr}"
        if block.language == "python":
            compile(textwrap.dedent(block.text), str(block), "exec")


def test_each_message_in_the_page_on_troubleshooting_is_in_the_code() -> None:
    files = [
        path for folder in ("cluster", "datasets", "heliostat", "tuning", "workloads") for path in (ROOT / folder).rglob("*.py")
    ]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text() for path in files))  # texts over several lines
    rows = re.findall(r"^\| `(.*?)` \| ", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 30
    for row in rows:
        assert re.search(".*".join(map(re.escape, filter(str.strip, row.split("…")))), code), row


def test_the_page_on_the_interface_has_every_public_name() -> None:
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("interface.md", "contracts.md"))
    listed = set(re.findall(r"^::: heliostat\.(\w+)$", pages, re.MULTILINE))
    assert listed == {*heliostat.__all__} - {"SweepConfig", "TrainConfig"}, "configs are in the reference of their keys"
