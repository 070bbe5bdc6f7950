import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from heliostat.cli import COMMANDS, GROUPS, SUBCOMMANDS, main
from heliostat.reference.pages import parsers
from tests.conftest import Command, clean_environment


def test_help_names_every_command(command: Command) -> None:
    done = command("--help")
    assert done.code == 0
    assert all(name in done.out and line in done.out for name, line in COMMANDS.items())


def test_a_dry_run_imports_nothing_large_but_torch(tmp_path: Path) -> None:
    """Each of the others takes 0.3 s or more."""
    script = (
        "import sys; from heliostat.cli import main; main(['train', 'digits', '--dry-run']);"
        "sys.exit(' '.join({'ray', 'pandas', 'matplotlib', 'torch._dynamo', 'torchmetrics', 'optuna'} & {*sys.modules}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=clean_environment(tmp_path), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr in (b"", b"checking the config, the task and the data\n"), "which a slow machine says"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[name] in help_of(name, capsys)


def test_every_command_and_verb_has_an_example_and_a_meaning_for_each_argument() -> None:
    for name in COMMANDS:
        for words in ([name], *([name, word] for word in SUBCOMMANDS.get(name, {}))):
            for title, parser in parsers(words):
                assert re.search(rf"examples?: heliostat {title.split()[0]}\b", parser.epilog or ""), title
                assert all(action.help for action in parser._actions if action.dest != "verb"), title


def test_help_lists_each_command_once_by_what_one_wants_to_do() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len({*names})
    assert {*names} <= COMMANDS.keys()


def help_of(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_sweep_show_has_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    shown, searched = help_of("sweep show", capsys), help_of("sweep", capsys)
    assert "NAME" in shown
    assert "--storage" in shown
    assert "--dry-run" not in shown
    assert "--dry-run" in searched
    assert "heliostat sweep show NAME" in searched


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sweep show", "heliostat sweep show: error: the following arguments are required: NAME"),
        ("sweep show digits --dry-run", "heliostat sweep show: error: unrecognized arguments: --dry-run"),
        ("sweep show digits other", "heliostat sweep show: error: unrecognized arguments: other"),
        ("sweep digits.yaml other", "heliostat sweep: error: unrecognized arguments: other"),
        ("sweep digits.yaml --storage runs", "heliostat sweep: error: unrecognized arguments: --storage runs"),
        ("sweep --json show digits", "heliostat sweep: error: unrecognized arguments: digits"),
        ("sweep a.yaml shwo", "heliostat sweep: error: unrecognized arguments: shwo; did you mean show?"),
    ],
)
def test_arguments_of_the_other_form_of_sweep_are_exit_2(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    usage, *_, last = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: heliostat sweep")
    assert last == message


@pytest.mark.parametrize(
    ("words", "address", "message"),
    [
        (
            "train digits --on gpu",
            None,
            "but --on gpu runs on a cluster, which has one\n  fix: leave it out; heliostat session gpu",
        ),
        ("sweep digits --on gpu", None, "but --on gpu runs on a cluster, which has one"),
        ("train digits --in-process", None, "but --in-process runs without Ray\n  fix: leave one of them out"),
        ("sweep digits", "127.0.0.1:6379", "but RAY_ADDRESS is 127.0.0.1:6379, a Ray that runs already"),
    ],
)
def test_a_dashboard_is_refused_where_no_ray_is_started_on_this_machine(
    words: str, address: str | None, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # which a command changes
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert main([*words.split(), "--dashboard"]) == 2
    assert f"--dashboard starts a dashboard on this machine, {message}" in capsys.readouterr().err


def test_a_config_file_with_the_name_of_a_subcommand_is_given_by_its_path(command: Command) -> None:
    (command.cwd / "show").write_text("")
    done = command("sweep", "./show")
    assert done.code == 2
    assert "config file ./show is empty" in done.err


def test_help_loads_nothing_heavy() -> None:
    """Help must not wait for torch, Ray or pydantic to be imported."""
    code = "import sys; from heliostat.cli import main\ntry: main(['--help'])\nexcept SystemExit: print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [heavy for heavy in ("torch", "ray", "pydantic", "rich", "numpy", "pyarrow") if f"'{heavy}'" in out]


def test_an_unknown_command_is_exit_2(command: Command) -> None:
    done = command("trian")
    assert done.code == 2
    assert "trian" in done.err
    assert "Traceback" not in done.err


def test_what_the_package_of_a_job_does_not_have_is_exit_2_with_where_to_run_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "heliostat.commands.plan", None)
    assert main(["plan", "gpu"]) == 2
    error = capsys.readouterr().err
    assert "heliostat plan needs heliostat.commands.plan, and jobs do not have" in error
    assert "fix: run it outside of a job" in error


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("heliostat 0.")


def test_json_is_one_document_alone_on_standard_output(command: Command) -> None:
    done = command("dataset", "build", "digits", "data", "--json")
    assert json.loads(done.out)["fields"]["image"] == {"dtype": "uint8", "shape": [1, 8, 8]}
    assert done.err == ""
