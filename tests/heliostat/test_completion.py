"""Completion: what the shell proposes, and that it is fast enough to be used."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from argcomplete.finders import CompletionFinder

from heliostat.cli import SUBCOMMANDS, main, parser_of
from heliostat.completion import with_completers
from tests.conftest import ROOT, Command

PROFILE = "groups: [{name: cpu, max: 2}, {name: big, max: 1}]\nstorage: {claim: runs}\n"


@pytest.fixture
def project(command: Command) -> Command:
    """A folder with a config, a profile and a run, and a program ``heliostat`` on the path."""
    (command.cwd / "mine.yaml").write_text("task: language-model\ndataset: {source: table}\n")
    (command.cwd / "team.yaml").write_text(PROFILE)
    (command.cwd / "runs/first").mkdir(parents=True)
    (command.cwd / "runs/first/config.yaml").touch()
    (command.cwd / "runs/models/churn/log").mkdir(parents=True)
    program = command.cwd / "bin/heliostat"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m heliostat "$@"\n')
    program.chmod(0o755)
    return Command(command.cwd, {**command.env, "PATH": f"{program.parent}:{os.environ['PATH']}"})


def proposed(project: Command, *lines: str) -> list[list[str]]:
    """What bash proposes at the end of each line, by its own variables and the function that it calls."""
    script = ['eval "$(heliostat init --completion bash)"']
    for line in lines:
        script += [
            f"COMP_LINE='{line}' COMP_POINT={len(line)} COMP_TYPE=9 COMPREPLY=()",
            "_python_argcomplete heliostat",
            'printf "%s\\n" "${COMPREPLY[@]}" --end--',
        ]
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(script)], cwd=project.cwd, env=dict(project.env), capture_output=True, text=True
    )
    assert done.stderr == ""
    return [[word.strip() for word in part.split("\n") if word.strip()] for part in done.stdout.split("--end--")[:-1]]


def test_bash_completes_commands_names_keys_and_values(project: Command) -> None:
    commands, keys, values = proposed(
        project, "heliostat eva", "heliostat up team --set groups.big.mem", "heliostat train digits --set precision=f"
    )
    assert commands == ["evaluate"]
    assert keys == ["groups.big.memory="]
    assert values == ["fp32", "fp16"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train di", ["digits"]),
        ("train mine.yaml --set optimizer.l", ["optimizer.lr=", "optimizer.layer_decay="]),
        ("train mine.yaml --set model.dr", ["model.dropout="]),
        ("train mine.yaml --set dataset.options.targ", ["dataset.options.target=", "dataset.options.target_type="]),
        ("sweep digits --set train.epo", ["train.epochs="]),
        ("sweep digits --set algorithm=r", ["algorithm=random"]),
        ("status te", ["team"]),
        ("predict f", ["first"]),
        ("runs com", ["compare"]),
        ("runs open ", ["first", "bin/", "runs/"]),
        ("dataset build im", ["images"]),
        ("dataset build table runs/", ["runs/first/", "runs/models/"]),
        ("dataset build table out --set targ", ["target=", "target_type="]),
        ("dataset info r", ["runs/"]),
        ("model promote c", ["churn"]),
        ("model export f", ["first"]),
        ("serve churn@ch", ["churn@champion"]),
        ("serve first --set r", ["rows=", "requests="]),
        ("sweep sh", ["show"]),
        ("down team --no", ["--no-wait"]),
        ("train digits --on te", ["team"]),
    ],
)
def test_a_word_is_completed(line: str, words: list[str], project: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.cwd)
    *typed, last = line.split(" ")
    finder = CompletionFinder(with_completers(parser_of(typed), typed, SUBCOMMANDS), always_complete_options=False)
    found: list[str] = finder._get_completions(["heliostat", *typed], last, "", None)  # type: ignore[no-untyped-call]
    assert [word.strip() for word in found] == words


def test_a_tab_imports_nothing_large(project: Command) -> None:
    """Each of these takes longer than what a Tab may."""
    line = "heliostat train digits --set opt"
    env = {**project.env, "PYTHONPATH": str(ROOT), "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)),
           "COMP_TYPE": "9", "_ARGCOMPLETE_STDOUT_FILENAME": str(project.cwd / "words")}  # fmt: skip
    command = [sys.executable, "-X", "importtime", "-m", "heliostat"]
    done = subprocess.run(command, cwd=project.cwd, env=env, capture_output=True, text=True)
    assert "optimizer.lr=" in (project.cwd / "words").read_text()
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "heliostat.completion" in imported
    assert not {"torch", "ray", "pydantic", "numpy", "ruamel.yaml"} & imported


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_takes_its_completion(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--completion", shell]) == 0
    code = capsys.readouterr().out
    assert "heliostat" in code
    if program := shutil.which(shell):
        (tmp_path / "code").write_text(code)
        done = subprocess.run([program, "-n", tmp_path / "code"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
