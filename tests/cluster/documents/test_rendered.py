"""The manifests as text: what `heliostat render` prints, and the checked-in files."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from heliostat.cli import main
from heliostat.cluster.documents import manifests, render
from heliostat.cluster.documents.manifests import documents
from heliostat.cluster.profile import find
from tests.cluster.documents.test_manifests import PROFILES


@pytest.mark.parametrize("name", PROFILES)
def test_the_checked_in_manifests_are_what_render_prints(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", name]) == 0
    printed = capsys.readouterr().out
    assert (render.FOLDER / f"{name}.yaml").read_text() == printed, (
        "regenerate them: python -m heliostat.cluster.documents.render"
    )


def test_there_is_no_manifest_of_a_profile_that_is_gone() -> None:
    assert sorted(path.name for path in render.FOLDER.iterdir()) == [f"{name}.yaml" for name in PROFILES]


def test_writing_the_manifests_writes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "FOLDER", tmp_path)
    render.main()
    assert sorted(path.stem for path in tmp_path.iterdir()) == PROFILES


def parsed(text: str, version: tuple[int, int]) -> list[Any]:
    yaml = YAML(typ="safe", pure=True)
    yaml.version = version
    return list(yaml.load_all(text))


@pytest.mark.parametrize("version", [(1, 1), (1, 2)], ids=["as kubectl reads YAML", "as YAML 1.2"])
@pytest.mark.parametrize("name", PROFILES)
def test_the_text_says_what_the_documents_say(name: str, version: tuple[int, int]) -> None:
    made = render.rendered(find(name))
    assert parsed(render.text(made, "x"), version) == made


@pytest.mark.parametrize("version", [(1, 1), (1, 2)], ids=["as kubectl reads YAML", "as YAML 1.2"])
@pytest.mark.parametrize(
    "text",
    [
        "on", "No", "y", "null", "~", "012", "1_0", "12:30:00", "1e3", ".5", "0x1f", "2.60", "2024-01-01", "=", "<<", "",
        " a", "a ", "a: b", "a #b", "*a", "!x", "- a", "[a]", "{a", '"', "a\\n", "ü", "s3://bucket/a?b=c",
        "a\nb\n", "a\nb", "a\n\n", " a\n  b\n", "\ta\nb", "a\r\nb", "\n", "a\u2028\nb",
    ],
)  # fmt: skip
def test_no_text_becomes_something_else_on_the_way(text: str, version: tuple[int, int]) -> None:
    document = {"env": [{"name": "A", "value": text}], text: "key"}
    assert parsed(render.text([document], "x"), version) == [document]


def test_the_text_is_for_reading() -> None:
    text = render.text(render.rendered(find("gpu")), "heliostat render gpu")
    assert text.splitlines()[0] == "# Made by: heliostat render gpu"
    assert text.count("\n---\n") == len(documents(find("gpu")))
    assert "&id" not in text
    assert "*id" not in text
    program = manifests.program("idle")["idle.py"].splitlines()
    assert all(f"\n    {line}\n" in text for line in program if line), "a program is printed line by line"


@pytest.mark.parametrize("name", PROFILES)
def test_the_same_profile_always_gives_the_same_text(name: str) -> None:
    assert render.text(render.rendered(find(name)), "x") == render.text(render.rendered(find(name)), "x")


def test_render_names_the_command_that_gives_the_same_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "spot", "--set", "groups.gpu.max=2", "--kuberay", "1.7"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# Made by: heliostat render spot --set groups.gpu.max=2 --kuberay 1.7\n")
    (cluster,) = [document for document in parsed(printed, (1, 2)) if document["kind"] == "RayCluster"]
    assert [(g["maxReplicas"], g.get("priority")) for g in cluster["spec"]["workerGroupSpecs"]] == [(8, 10), (2, None)]


def test_render_prints_the_rights_that_users_need(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "research", "--rbac"]) == 0
    role, binding = parsed(capsys.readouterr().out, (1, 2))
    assert (role["kind"], role["metadata"]["namespace"]) == ("Role", "research")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["local"], "platform of local is local"),
        (["gpu", "--set", "tls=true"], "tls is set, which KubeRay 1.6 does not know\n  fix: add --kuberay 1.7"),
        (["spot", "--set", "groups.gpu.priority=5"], "groups.gpu.priority is set, which KubeRay 1.6 does not know"),
        (["gpus"], "did you mean gpu?"),
    ],
)
def test_what_cannot_be_rendered_is_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""
