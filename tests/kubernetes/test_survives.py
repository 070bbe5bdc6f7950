"""Pods that are deleted, nodes that are drained, nodes that are gone without a word: the run goes on, with the same result.

Killing a node takes more than the API: ``HELIOSTAT_TEST_NODES`` names a program with ``node kill NAME``, ``node drain NAME``
and ``node add NAME --gpus N``; `.ci/run` sets it.
"""

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import end_group, wait_for
from tests.faults.conftest import CONFIG, write_project
from tests.kubernetes.conftest import GPU, Place, whole_node

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


class Running:
    """A ``heliostat train --on``, with the lines of its job as they come."""

    def __init__(self, place: Place, profile: Path, name: str) -> None:
        flags = [part for setting in (f"name={name}", *SETTINGS) for part in ("--set", setting)]
        self.process = place.command.start("train", "config.yaml", "--on", profile, "--json", *flags)
        self.lines: list[str] = []
        self.out: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._errors = threading.Thread(target=lambda: self.lines.extend(self.process.stderr or ()), daemon=True)
        self._errors.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.out.append(line)
            self.lines.append(line)

    def says(self, pattern: str, seconds: float = 240) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            return next(filter(None, (re.search(pattern, line) for line in list(self.lines))), None)

        def there() -> bool:
            assert self.process.poll() is None or found(), "".join(self.lines)
            return bool(found())

        wait_for(there, f"{pattern} in {self.lines}", seconds)
        match = found()
        assert match
        return match

    def result(self) -> dict[str, Any]:
        try:
            self.process.wait(timeout=400)
        finally:
            end_group(self.process)
        self._reader.join()
        self._errors.join()
        told = "".join(self.lines)
        assert self.process.returncode == 0, told
        document = "".join(self.out)
        result: dict[str, Any] = json.JSONDecoder().raw_decode(document, document.index("{\n"))[0]
        return result


@pytest.fixture(scope="module")
def undisturbed(place: Place, cluster: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = Running(place, cluster, "calm").result()["metrics"]
    return metrics


def worker_pods(place: Place) -> list[dict[str, Any]]:
    query = {"labelSelector": "ray.io/node-type=worker"}
    pods = place.kube.api.request("GET", place.kube.api.path("Pod"), query=query)["items"]
    return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]


def test_a_deleted_pod_is_a_notice_and_loses_no_step(place: Place, cluster: Path, undisturbed: dict[str, Any]) -> None:
    run = Running(place, cluster, "deleted")
    run.says(r"^step +\d+")
    pod = worker_pods(place)[0]["metadata"]["name"]
    place.kube.api.request("DELETE", place.kube.api.path("Pod", pod))
    saved = int(run.says(r"a node goes away; saved at step (\d+)")[1])
    assert saved > 0
    assert run.result()["metrics"] == undisturbed
    assert not any("failure 1" in line for line in run.lines)


@pytest.fixture
def take(place: Place) -> Callable[[str, str], None]:
    """Takes a node away, and brings a new machine under the old name."""
    program = os.environ.get("HELIOSTAT_TEST_NODES")
    if not program:
        pytest.skip("HELIOSTAT_TEST_NODES is not set")
    path = place.kube.api.path("Node")
    listed = place.kube.api.request("GET", path)["items"]
    gpus = {node["metadata"]["name"]: node["status"]["allocatable"].get(GPU, "0") for node in listed}

    def take(how: str, name: str) -> None:
        subprocess.run([program, "node", how, name], check=True)
        if how == "kill":  # what a cloud does with a machine that is gone
            place.kube.api.request("DELETE", f"{path}/{name}")
        subprocess.run([program, "node", "add", name, "--gpus", gpus[name]], check=True)

    return take


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
    run = Running(place, cluster, how)
    run.says(r"^step +\d+")
    take(how, worker_pods(place)[0]["spec"]["nodeName"])
    run.says(told)
    assert run.result()["metrics"] == undisturbed
