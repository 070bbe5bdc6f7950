"""Packages beyond the image: what is refused before anything starts, and what a node installs."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from heliostat import requirements
from heliostat.cli import main
from heliostat.errors import UserError
from tests.conftest import ROOT
from tests.wheels import wheel

TRAIN = ["train", "digits", "--on", "gpu", "--dry-run"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("einops=1", "'einops=1'"),
        ("-r other.txt", "an option of pip"),
        ("--index-url https://x", "an option of pip"),
        ("lib/nothing-1.0-py3-none-any.whl", "does not exist in"),
        ("../outside-1.0-py3-none-any.whl", "outside of the working directory"),
        ("torn.whl", "Invalid wheel filename"),
        ("ray==2.1", "but the cluster has ray 2.60.0"),
        ("torch @ https://x/torch.whl", "torch comes with the image"),
    ],
)
def test_what_cannot_be_installed_is_refused_before_it_is_sent(
    text: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "torn.whl").touch()
    wheel(folder.parent, "outside", "1.0")
    assert main([*TRAIN, "--set", f"requirements=['{text}']"]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


def test_all_wrong_lines_of_a_file_are_in_one_message(folder: Path) -> None:
    (folder / "needs.txt").write_text("# mine\n\npydantic>=2  # configs\n-e .\na b\n")
    with pytest.raises(UserError, match=r"'-e \.' \(an option of pip\), 'a b'"):
        requirements.parse("needs.txt")
    (folder / "needs.txt").write_text("# mine\n\npydantic>=2  # configs\nnumpy\n")
    assert [each.text for each in requirements.parse("needs.txt")] == ["pydantic>=2", "numpy"]
    with pytest.raises(UserError, match=r"other\.txt, which cannot be read: No such file"):
        requirements.parse("other.txt")


def test_a_dry_run_shows_them_and_sends_the_files_that_git_ignores(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel(folder, "tiny", "1.2")
    (folder / ".gitignore").write_text("*.whl\n*.txt\n")
    (folder / "needs.txt").write_text("./tiny-1.2-py3-none-any.whl\n")
    assert main([*TRAIN, "--set", "requirements=needs.txt"]) == 0
    printed = capsys.readouterr().out
    assert "# requirements: ./tiny-1.2-py3-none-any.whl" in printed
    sent = printed.partition("# sent:")[2]
    assert all(name in sent for name in ("needs.txt", "tiny-1.2-py3-none-any.whl"))
    (folder / "script.py").touch()
    assert main(["torchrun", "--on", "gpu", "--dry-run", "--requirements", "needs.txt", "script.py"]) == 0
    sent = capsys.readouterr().out.partition("# sent:")[2]
    assert all(name in sent for name in ("needs.txt", "tiny-1.2-py3-none-any.whl"))
    assert main(["torchrun", "--requirements", "needs.txt", "script.py"]) == 2
    assert "tiny-1.2-py3-none-any.whl, which is not installed here" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["requirements", "train.requirements"])
def test_a_sweep_has_them_for_all_of_its_trials(key: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel(folder, "tiny", "1.2")
    arguments = ["sweep", "digits", "--on", "gpu", "--dry-run", "--set", f"{key}=[./tiny-1.2-py3-none-any.whl]"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "# requirements: ./tiny-1.2-py3-none-any.whl" in printed
    assert "tiny-1.2" in printed.partition("# sent:")[2]
    assert main([*arguments, "--set", f"{key}=[ray==2.1]"]) == 2


@pytest.mark.parametrize(
    ("requirement", "fulfilled"),
    [
        ("pydantic", True),
        (f"pydantic=={metadata.version('pydantic')}", True),
        ("pydantic<1", False),
        ("no-such-package; python_version < '3'", True),
        ("pydantic[no-such-extra]", True),
        ("no-such-package", False),
        ("pydantic @ https://example.com/pydantic.whl", False),
    ],
)
def test_here_a_requirement_is_installed_or_one_message_says_how(requirement: str, fulfilled: bool) -> None:
    assert bool(requirements.missing([requirement])) is not fulfilled
    if not fulfilled:
        with pytest.raises(UserError, match=r"not installed here(.|\n)*-m pip install"):
            requirements.provide([requirement])


def test_a_run_here_is_refused_before_anything_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits", "--set", "requirements=[no-such-package]"]) == 2
    assert "requirements has no-such-package, which is not installed here" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def provide(folder: Path, code: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a new process of a node, which has no package index."""
    env = {
        "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "HELIOSTAT_STORAGE": "/mnt", "PATH": "/usr/bin:/bin",
        "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "HOME": str(folder),
    }  # fmt: skip
    program = f"import sys; from heliostat.requirements import provide; {code}"
    return subprocess.run([sys.executable, "-c", program], cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def test_a_node_installs_a_wheel_once_over_the_packages_of_its_image(folder: Path) -> None:
    wheel(folder, "tiny", "1.2", "import pydantic")
    code = "provide(['./tiny-1.2-py3-none-any.whl', 'pydantic']); import tiny; print(tiny.version, tiny.__file__)"
    first, second = provide(folder, code), provide(folder, code)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout == second.stdout
    assert first.stdout.startswith(f"1.2 {folder}/heliostat-requirements-")
    assert ("installs ./tiny" in first.stderr, "installs" in second.stderr) == (True, False)


def test_a_failed_installation_shows_the_lines_of_pip_and_leaves_nothing_that_looks_complete(folder: Path) -> None:
    done = provide(folder, "provide(['no-such-package>1'])")
    assert "requirements cannot be installed on" in done.stderr
    assert "  | ERROR: No matching distribution found for no-such-package>1" in done.stderr
    assert not list(folder.glob("heliostat-requirements-*/*/installed"))


def test_a_package_that_is_in_use_is_not_replaced(folder: Path) -> None:
    wheel(folder, "annotated_types", "99.0")
    done = provide(folder, "provide(['./annotated_types-99.0-py3-none-any.whl'])")
    assert done.returncode == 0, done.stderr
    done = provide(folder, "import annotated_types; provide(['./annotated_types-99.0-py3-none-any.whl'])")
    assert "already uses the image's own" in done.stderr
