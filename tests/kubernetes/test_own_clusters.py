"""Clusters that come and go by themselves: suspended when idle, of one job, on a schedule; and groups that replace others.

None of them takes a GPU, so that they run beside the tests that do.
"""

import json
import os
import time
from typing import Any

import pytest

from heliostat.cluster.kube.conditions import suspended
from tests.conftest import Command, wait_for
from tests.kubernetes.conftest import SHORT, Place, cpu_group, ray_pods, status, succeeded
from tests.kubernetes.test_cluster import Life, looking, note, total
from tests.kubernetes.test_sweep import write_sweep
from tests.wheels import wheel


def test_an_idle_cluster_suspends_itself_head_included_and_the_next_job_wakes_it(place: Place) -> None:
    path = place.profile("sleepy", groups=[cpu_group()], idle_shutdown_seconds=15)
    assert place.command("up", path).code == 0
    place.kube.clusters.wait(["sleepy"], suspended, 300)
    wait_for(lambda: _pods(place, "sleepy") == [], "the head to go")
    asleep = status(place.command, path)
    assert asleep["state"] == "suspended"
    assert "no work for 15 s" in asleep["detail"]
    done = place.command("submit", path, "--", "python", "-c", "print('awake')")
    assert done.code == 0, done.err
    assert "awake" in done.out
    assert "resumes the cluster" in done.err
    assert place.command("down", path, "--yes", "--no-wait").code == 0


@pytest.mark.accept  # Ray's choice of another group; make test has ours of when it must: tests/cluster/diagnosis/test_wait.py
def test_spot_that_does_not_come_is_replaced_by_on_demand(place: Place) -> None:
    """The gang needs two nodes, and of the two equal groups one can never be scheduled."""
    spot = cpu_group(name="spot", market="spot", start_seconds=10, node_selector={"market": "none-such"})
    path = place.profile("fallback", groups=[spot, cpu_group(start_seconds=10)])
    assert place.command("up", path).code == 0
    code = (
        "import ray; from ray.util import placement_group as gang; ray.init(); "
        "group = gang([{'CPU': 1}] * 2, strategy='STRICT_SPREAD'); ray.get(group.ready()); "
        "print('placed on', {node['Labels'].get('ray.io/node-group') for node in ray.nodes() if node['Resources'].get('CPU')})"
    )
    began = time.monotonic()
    done = place.command("submit", path, "--", "python", "-c", code)
    assert done.code == 0, done.err
    assert "placed on {'cpu'}" in done.out
    print(f"placed after {time.monotonic() - began:.0f} s")
    assert place.command("down", path, "--yes").code == 0


def test_an_ephemeral_cluster_is_there_for_one_job_and_gone_afterwards(place: Place) -> None:
    """Its pods have volumes and metadata of the profile's, and its run a package that the image lacks; its cost is recorded.

    Its least worker is requested when its head answers.
    """
    path = place.profile(
        "brief",
        groups=[cpu_group(min=1)],
        annotations={"team": "vision"},
        shared_memory="512Mi",
        run_as_user=1000,
        volumes=[{"mount": "/scratch", "empty_dir": "1Gi"}],
        pod={"metadata": {"labels": {"team": "vision"}}},
        env={"NUMBER": 1},
    )
    folder = place.command.cwd
    lacking = wheel(folder, "tiny", "1.2")
    (folder / ".gitignore").write_text("*.whl\n")
    (folder / "needing.py").write_text(
        "import os, tiny\n"
        "from heliostat.workloads.tasks.image_classification import ImageClassification\n\n\n"
        "class Digits(ImageClassification):\n"
        "    def model(self):\n"
        "        assert os.environ['NUMBER'] == '1' and os.path.ismount('/scratch') and tiny.version == '1.2'\n"
        "        return super().model()\n"
    )
    # Here it is imported from the wheel itself.
    search = f"{place.command.env['PYTHONPATH']}{os.pathsep}{lacking}"
    here = Command(folder, {**place.command.env, "PYTHONPATH": search})
    changes = ["name=brief", "task=needing:Digits", f"requirements=[{lacking.name}]"]
    lives: dict[str, Life] = {}

    def brief() -> list[dict[str, Any]]:
        pods = [pod for kind in ("head", "worker") for pod in ray_pods(place, kind)]
        return [pod for pod in pods if pod["metadata"]["name"].startswith("brief")]

    words = [part for each in changes for part in ("--set", each)]
    with looking(lambda: note(lives, brief)):
        done = here("train", "digits", "--on", path, "--ephemeral", *SHORT, *words)
        assert done.code == 0, done.err
        wait_for(lambda: brief() == [] and all(life.missed for life in lives.values()), "its pods to end")
    assert f"installs {lacking.name} on" in done.out
    assert "brief finished at step 84" in done.out
    assert "heliostat runs pull brief --on " in done.out
    kept = place.command("logs", path, "brief")
    assert "brief finished at step 84" in kept.out, kept.err
    assert "a head of its own reads the storage" in kept.err
    cost = place.command("cost", "brief", "--json")
    assert cost.code == 0, cost.err
    found = json.loads(cost.out)
    seconds = sum(each["end"] - each["begin"] for each in found["intervals"])
    # When a pod is to end, the recorder is, too; and on a busy machine it may be killed before its last look is written.
    assert 0.75 * total(lives, "stayed") < seconds < total(lives, "missed") + 3 * len(lives), (found["intervals"], lives)
    assert found["not_recorded"] == []
    assert {row["key"]: row["hours"]["productive"] > 0 for row in found["rows"]} == {"cpu": True, "head": True}
    wait_for(lambda: place.kube.jobs.list() == [], "the RayJob to be deleted")
    wait_for(lambda: [c for c in place.kube.clusters.list() if c["metadata"]["name"].startswith("brief")] == [], "its cluster")


@pytest.mark.accept
def test_a_sweep_runs_on_its_own_cluster_on_a_schedule(place: Place) -> None:
    profile = place.profile("own", groups=[cpu_group()])
    write_sweep(place, "short", [0.5, 1.0], seconds=0.0)
    made = place.command("sweep", "short.yaml", "--on", profile, "--cron", "* * * * *", "--set", "name=nightly")
    assert made.code == 0, made.err
    try:
        wait_for(lambda: any(name.startswith("nightly") for name in succeeded(place)), "a nightly sweep to succeed")
        assert "SUCCEEDED  ended 20" in place.command("cron", profile).out
    finally:
        assert place.command("cron", profile, "--delete", "nightly").code == 0
    assert json.loads(place.command("cron", profile, "--json").out) == []
    wait_for(lambda: place.kube.clusters.list() == [], "the nightly cluster to go")


def _pods(place: Place, cluster: str) -> list[Any]:
    query = {"labelSelector": f"ray.io/cluster={cluster}"}
    found: list[Any] = place.kube.api.request("GET", place.kube.api.path("Pod"), query=query)["items"]
    return found
