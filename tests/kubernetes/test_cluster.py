"""The whole way on a real Kubernetes: up, train in every way, back to zero, suspended when idle, awake again, down."""

import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.errors import KubernetesError
from heliostat.cluster.kube.conditions import ready, suspended
from heliostat.cluster.names import METRICS_PORT
from tests.conftest import ROOT, Command, beside, clean_environment, wait_for
from tests.faults.conftest import Seen
from tests.kubernetes.conftest import ON_GPUS, SHORT, Place, Running, first_document, status, whole_node, workers

pytestmark = ON_GPUS
DIGITS = "workloads/configs/digits.yaml"
TRAIN = ["python", "-m", "heliostat", "train", DIGITS]


@pytest.fixture(scope="module")
def gpu(place: Place) -> Iterator[Path]:
    """A standing cluster whose GPU group is at zero."""
    path = gpu_profile(place)
    done = place.command("up", path)
    assert done.code == 0, done.err
    yield path
    assert place.command("down", path, "--yes").code == 0


def gpu_profile(place: Place, **changes: object) -> Path:
    return place.profile("gpu", groups=[whole_node(place.kube) | changes])


@pytest.fixture
def here(place: Place) -> Command:
    """The command in the project's own folder, as its README shows it."""
    return Command(ROOT, place.command.env)


def back_to_zero(place: Place) -> None:
    wait_for(lambda: workers(place) == [], "the GPU group to shrink to zero")


def scheduled(pod: dict[str, Any]) -> float:
    """When a pod got its machine, in seconds since the epoch; 0 if it has none."""
    since = {
        each["type"]: each["lastTransitionTime"] for each in pod["status"].get("conditions", []) if each["status"] == "True"
    }
    return datetime.fromisoformat(since["PodScheduled"]).timestamp() if "PodScheduled" in since else 0.0


@contextmanager
def looking(look: Callable[[], object]) -> Iterator[None]:
    """Look twice a second while the block runs."""

    def loop(over: threading.Event) -> None:
        while not over.wait(0.5):
            look()

    with beside(loop):
        yield


@dataclass
class Life:
    """A pod: when it got its machine, and when it was last seen at all and without its deletion being asked for, and missed.

    What was last seen was there at least until then, and what was missed had gone by then, however late a look is.
    """

    begin: float
    seen: float = 0.0
    stayed: float = 0.0
    missed: float = 0.0


def note(lives: dict[str, Life], pods: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Look at pods, which are returned, and note in the lives by uid which of them are there."""
    asked = time.time()
    there = pods()
    for pod in filter(scheduled, there):
        life = lives.setdefault(pod["metadata"]["uid"], Life(scheduled(pod)))
        life.seen = asked
        if not pod["metadata"].get("deletionTimestamp"):
            life.stayed = asked
    for uid in lives.keys() - {pod["metadata"]["uid"] for pod in there}:
        lives[uid].missed = lives[uid].missed or time.time()
    return there


def total(lives: dict[str, Life], until: str) -> float:
    """The seconds of all lives until that."""
    return sum(float(getattr(life, until)) - life.begin for life in lives.values())


def check_seconds(found: dict[str, Any], lives: dict[str, Life]) -> None:
    """The seconds of the record are those of the pods."""
    seconds = {node: sum(i["end"] - i["begin"] for i in found["intervals"] if i["node"] == node) for node in lives}
    least, most = total(lives, "seen"), total(lives, "missed")
    assert 0.98 * least - 3 * len(lives) < sum(seconds.values()) < 1.02 * most + 3 * len(lives), (seconds, lives)


def page(place: Place) -> str:
    """The metrics of the cluster; empty while the head does not have them."""
    pods = place.kube.api.request("GET", place.kube.api.path("Pod"), query={"labelSelector": "ray.io/node-type=head"})["items"]
    for pod in pods:
        with suppress(KubernetesError):
            where = f"{place.kube.api.path('Pod', pod['metadata']['name'])}:{METRICS_PORT}/proxy/metrics"
            return place.kube.api.raw("GET", where).data.decode()
    return ""


def test_right_after_up_there_is_no_difference(place: Place, gpu: Path) -> None:
    done = place.command("diff", gpu)
    assert (done.code, done.out) == (0, "")
    assert "matches the profile" in done.err


def test_a_digits_run_wakes_two_gpus_and_shows_its_metrics_and_lets_them_go(place: Place, gpu: Path, here: Command) -> None:
    assert workers(place) == []
    process = here.start("train", DIGITS, "--on", gpu, "--set", "name=e2e", "--json")
    machines: dict[str, str] = {}  # by pod; on a busy machine some are replaced
    lives: dict[str, Life] = {}
    progress: list[str] = []  # as Prometheus would scrape it

    def look() -> None:
        progress[:] = progress or [line for line in page(place).splitlines() if line.startswith("ray_heliostat_run_goodput")]
        there = note(lives, lambda: workers(place))
        machines.update({pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in there})

    with looking(look):
        out, err = process.communicate()
        assert process.returncode == 0, err
        result = json.loads(out)
        assert 'run="e2e"' in "".join(progress), "the head's page has what the driver exports"
        assert result["metrics"]["test"]["accuracy"] > 0.95
        assert result["run"] == "/mnt/heliostat/runs/e2e"
        assert "validation  accuracy" in err, "the job's progress is shown while it runs"
        assert "e2e" in place.command("runs", "--on", gpu).out
        measured = place.command("evaluate", "e2e", "--on", gpu, "--json")
        assert measured.code == 0, measured.err
        assert json.loads(measured.out)["metrics"] == pytest.approx(result["metrics"]["test"], abs=1e-4)
        brought = place.command("runs", "pull", "e2e", "--on", gpu)
        assert brought.code == 0, brought.err
        assert (place.command.cwd / "runs/e2e/report.html").exists()
        assert "validation  accuracy" in next((place.command.cwd / "runs/e2e/logs").glob("*.log")).read_text()
        pods = [worker["host"] for worker in Seen.at(place.command.cwd / "runs/e2e").starts[-1]["workers"]]
        assert len({machines[pod] for pod in pods} - {""}) == 2, (
            f"two workers, each with a pod, on two nodes: {pods}, {machines}"
        )
        back_to_zero(place)
        wait_for(lambda: all(life.missed for life in lives.values()), "the last look")

    def recorded() -> dict[str, Any]:
        done = place.command("cost", "e2e", "--on", gpu, "--json")
        assert done.code == 0, done.err
        found: dict[str, Any] = json.loads(done.out)
        return found

    wait_for(lambda: {each["node"] for each in recorded()["intervals"]} >= lives.keys(), "the record")
    found = recorded()
    check_seconds(found, lives)
    (row,) = found["rows"][:1]
    assert (row["key"], row["money"]["productive"] > 0) == ("gpu", True)
    assert found["gaps"] == []


def test_the_same_by_ray_job_submit_and_by_a_ray_client_session(place: Place, gpu: Path, here: Command, tmp_path: Path) -> None:
    session = place.command.start("session", gpu, "--json")
    try:
        where = json.loads(first_document(session))
        env = {**clean_environment(tmp_path / "home"), **where["environment"], "RAY_API_SERVER_ADDRESS": where["dashboard"]}
        ray = Path(sys.executable).parent / "ray"
        job = subprocess.run(
            [ray, "job", "submit", "--working-dir", ".", "--", *TRAIN, "--set", "name=job", *SHORT],
            cwd=ROOT, env=env, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert job.returncode == 0, job.stdout + job.stderr
        assert "job finished at step 84" in job.stdout
        script = f"""
            import ray
            ray.init("{where["client"]}", runtime_env={{"working_dir": "."}}, log_to_driver=False)
            from heliostat import train
            result = train("{DIGITS}", ["name=client", "epochs=4"])
            print("accuracy", result.metrics["test"]["accuracy"], result.run)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
        assert "/mnt/heliostat/runs/client" in done.stdout
    finally:
        session.terminate()
        session.communicate(timeout=300)
    back_to_zero(place)


def test_the_jobs_exit_code_is_ours(place: Place, gpu: Path) -> None:
    assert place.command("submit", gpu, "--", "python", "-c", "raise SystemExit(7)").code == 7
    done = place.command("submit", gpu, "--", "python", "-c", "print('well done')")
    assert (done.code, done.out.strip().splitlines()[-1]) == (0, "well done")


def test_more_workers_than_the_cluster_can_ever_have_are_refused_at_once(place: Place, gpu: Path, here: Command) -> None:
    done = here("train", DIGITS, "--on", gpu, "--set", "workers=8", "--set", "resources.gpu=1")
    assert done.code == 2
    assert "workers is 8" in done.err
    assert "fix: set workers to 2" in done.err


def test_storage_that_the_nodes_do_not_share_is_refused_before_a_gpu_is_taken(place: Place, gpu: Path, here: Command) -> None:
    done = here("train", DIGITS, "--on", gpu, "--set", "storage=/home/ray/runs")
    assert done.code == 2
    assert "storage is /home/ray/runs" in done.err
    assert "/mnt/heliostat" in done.err


def test_ctrl_c_stops_the_job_with_a_checkpoint_and_the_same_command_resumes(place: Place, gpu: Path, here: Command) -> None:
    arguments = ["train", DIGITS, "--on", str(gpu), "--set", "name=stopped", "--set", "epochs=400"]
    running = Running(replace(place, command=here), *arguments)
    running.says("step    100")
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 130, "".join(running.lines)
    running.says("with a checkpoint")
    short = here(*arguments, "--set", "epochs=400", "--dry-run")
    assert short.code == 0, short.err


def test_a_changed_maximum_needs_no_restart_and_another_image_asks_first(place: Place, gpu: Path) -> None:
    back_to_zero(place)
    before = status(place.command, gpu)["nodes"]
    grown = gpu_profile(place, max=3)
    assert place.command("up", grown).code == 0
    assert status(place.command, grown)["groups"][0]["max"] == 3
    refused = place.command("up", grown, "--set", "head.memory=3500Mi")
    assert refused.code == 2
    assert "this change replaces 1 pod (" in refused.err
    assert "--yes" in refused.err
    assert [node["name"] for node in status(place.command, grown)["nodes"]] == [node["name"] for node in before]
    gpu_profile(place)


def test_a_cluster_can_be_suspended_scaled_and_resumed_from_python(place: Place, gpu: Path) -> None:
    clusters = place.kube.clusters
    clusters.suspend("gpu")
    clusters.wait(["gpu"], suspended, 300)
    clusters.resume("gpu")
    clusters.wait(["gpu"], ready, 300)
    scaled = clusters.scale("gpu", "gpu", 1)
    assert scaled["spec"]["workerGroupSpecs"][0]["replicas"] == 1
    wait_for(lambda: len(workers(place)) == 1, "one worker")
    back_to_zero(place)
