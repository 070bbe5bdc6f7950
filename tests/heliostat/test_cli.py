import json
import subprocess
import sys

import pytest

from heliostat.cli import COMMANDS, main
from tests.conftest import Command


def test_help_names_every_command(command: Command) -> None:
    done = command("--help")
    assert done.code == 0
    assert all(name in done.out and line in done.out for name, line in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, command: Command) -> None:
    done = command(name, "--help")
    assert done.code == 0
    assert COMMANDS[name] in done.out


def test_sweep_show_has_its_own_options(command: Command) -> None:
    shown, searched = command("sweep", "show", "--help"), command("sweep", "--help")
    assert (shown.code, searched.code) == (0, 0)
    assert "NAME" in shown.out
    assert "--storage" in shown.out
    assert "--dry-run" not in shown.out
    assert "--dry-run" in searched.out
    assert "heliostat sweep show NAME" in searched.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sweep show", "heliostat sweep show: error: the following arguments are required: NAME"),
        ("sweep show digits --dry-run", "heliostat sweep show: error: unrecognized arguments: --dry-run"),
        ("sweep show digits other", "heliostat sweep show: error: unrecognized arguments: other"),
        ("sweep digits.yaml other", "heliostat sweep: error: unrecognized arguments: other"),
        ("sweep digits.yaml --storage runs", "heliostat sweep: error: unrecognized arguments: --storage runs"),
        ("sweep --json show digits", "heliostat sweep: error: unrecognized arguments: digits"),
    ],
)
def test_arguments_of_the_other_form_of_sweep_are_exit_2(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    usage, *_, last = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: heliostat sweep")
    assert last == message


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


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("heliostat 0.")


def test_json_is_one_document_alone_on_standard_output(command: Command) -> None:
    done = command("dataset", "build", "digits", "data", "--json")
    assert json.loads(done.out)["fields"]["image"] == {"dtype": "uint8", "shape": [1, 8, 8]}
    assert done.err == ""
