"""Pods that are deleted, nodes that are drained, nodes that are gone without a word: the run goes on, with the same result."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import CONFIG, write_project
from tests.kubernetes.conftest import Place, Running, node_of_workers, whole_node, worker_pods

STEPS = 400
SCRIPT = f"""
import os, socket, sys, time
import torch, torch.distributed as dist
from workloads.legacy import resume, save
dist.init_process_group("gloo")
print("runs in", socket.gethostname(), "with", *sys.argv[1:], flush=True)
counts = {{"total": 0}}
for step in range(resume(counts=counts), {STEPS}):
    time.sleep(0.05)
    one = torch.ones(1)
    dist.all_reduce(one)
    counts["total"] += int(one)
    if step % 20 == 0:
        print("step", step, flush=True)
    save(step + 1, every=1, counts=counts)
print("total", counts["total"], flush=True)
dist.destroy_process_group()
sys.exit(int(sys.argv[1]))
"""
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


def test_a_script_for_torchrun_goes_on_when_one_of_its_nodes_is_gone(
    place: Place, cluster: Path, take: Callable[[str, str], None]
) -> None:
    (place.command.cwd / "script.py").write_text(SCRIPT)
    run = Running(place, "torchrun", "--on", cluster, "--workers", "2", "--max-restarts", "3", "script.py", "0")
    pods = {run.says(rf"^\[rank {rank}\] runs in (\S+) with 0$")[1] for rank in (0, 1)}
    assert len(pods) == 2
    run.says(r"^\[rank 0\] step 100$")
    take("kill", node_of_workers(place))
    assert run.end() == 0, "".join(run.lines)
    totals = sorted(line for line in run.out if "total" in line)
    assert totals == [f"[rank {rank}] total {2 * STEPS}\n" for rank in (0, 1)], "no step is lost, none is made twice"


def test_the_exit_code_of_a_script_is_that_of_the_command(place: Place, cluster: Path) -> None:
    (place.command.cwd / "exits.py").write_text("import os, sys\nsys.exit(int(sys.argv[1]) * int(os.environ['WORLD_SIZE']))\n")
    run = Running(place, "torchrun", "--on", cluster, "--workers", "2", "exits.py", "3")
    assert run.end() == 6, "".join(run.lines)
