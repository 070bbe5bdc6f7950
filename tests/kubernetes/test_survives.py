"""Pods that are deleted, nodes that are drained, nodes that are gone without a word: the run goes on, with the same result."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import CONFIG, write_project
from tests.kubernetes.conftest import Place, Running, node_of_workers, whole_node, worker_pods

SETTINGS = ("model.seconds=0.05", "max_failures=3")


@pytest.fixture(scope="module")
def cluster(place: Place) -> Iterator[Path]:
    """A standing cluster of two GPU nodes, and a project with a slow task."""
    write_project(place.command.cwd, CONFIG)
    path = place.profile("survivor", groups=[{**whole_node(place.kube), "idle_seconds": 120}])
    done = place.command("up", path)
    assert done.code == 0, done.err
    yield path
    assert place.command("down", path, "--yes").code == 0


def start(place: Place, profile: Path, name: str) -> Running:
    flags = [part for setting in (f"name={name}", *SETTINGS) for part in ("--set", setting)]
    return Running(place, "train", "config.yaml", "--on", profile, "--json", *flags)


@pytest.fixture(scope="module")
def undisturbed(place: Place, cluster: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = start(place, cluster, "calm").result()["metrics"]
    return metrics


def test_a_deleted_pod_is_a_notice_and_loses_no_step(place: Place, cluster: Path, undisturbed: dict[str, Any]) -> None:
    run = start(place, cluster, "deleted")
    run.says(r"^step +\d+")
    pod = worker_pods(place)[0]["metadata"]["name"]
    place.kube.api.request("DELETE", place.kube.api.path("Pod", pod))
    saved = int(run.says(r"a node goes away; saved at step (\d+)")[1])
    assert saved > 0
    assert run.result()["metrics"] == undisturbed
    assert not any("failure 1" in line for line in run.lines)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        *([("drain", r"a node goes away; saved at step \d+")] if "SOAK_FAULTS" in os.environ else []),
        ("kill", r"(was lost with its node|lost its connection to another worker).*; goes on .* \(failure 1 of 3\)"),
    ],
)
def test_a_node_that_is_taken_away_changes_nothing(
    place: Place, cluster: Path, undisturbed: dict[str, Any], take: Callable[[str, str], None], how: str, told: str
) -> None:
    run = start(place, cluster, how)
    run.says(r"^step +\d+")
    take(how, node_of_workers(place))
    run.says(told)
    assert run.result()["metrics"] == undisturbed
