"""A profile's cluster on this machine: real Ray processes, added and removed with the work, leave nothing behind."""

import getpass
import json
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

from heliostat.cluster.errors import NotFound
from heliostat.cluster.in_pod.ray_usage import held
from heliostat.cluster.in_pod.record import Interval, read
from heliostat.cluster.jobs.contents import contents
from heliostat.cluster.jobs.demand import Request, ray_state
from heliostat.cluster.jobs.follow import Work, submit
from heliostat.cluster.jobs.usage import usage
from heliostat.cluster.profile import Profile
from heliostat.cluster.ray_version import differing
from heliostat.cluster.targets.local import RECORDER, LocalCluster
from heliostat.cluster.targets.local.emulation import autoscaling
from heliostat.cluster.targets.local.processes import ClusterRecord, processes
from heliostat.cluster.targets.observation import of_job
from heliostat.cluster.targets.status import State
from heliostat.cluster.targets.storage import record_folder
from heliostat.config import to_yaml
from heliostat.errors import NotComing, UserError
from tests.conftest import Command, clean_environment, gone, wait_for
from tests.workloads.finished.test_serve_process import GOOD, two_versions

UP = """
import sys
from heliostat.cluster.jobs.follow import Work, submit
from heliostat.cluster.targets.local import LocalCluster
from heliostat.cluster.profile import Profile
for line in LocalCluster(Profile.model_validate_json(sys.argv[1])).up():
    print(line)
"""
JOB = """
import json, os, sys, time
import ray
ray.init()
@ray.remote(num_gpus=1, label_selector={"ray.io/market-type": "spot"})
def work():
    while not os.path.exists(os.environ["HELIOSTAT_STORAGE"] + "-seen"):  # both at work, however late the second
        time.sleep(0.1)
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_node_labels(), dict(os.environ)
nodes, labels, there = zip(*ray.get([work.remote(), work.remote()]))
seen = {"nodes": len(set(nodes)), "labels": labels[0], "there": there[0], "env": dict(os.environ)}
seen |= {"python": sys.executable, "here": os.listdir()}
print("seen " + json.dumps(seen), flush=True)
"""
WAITS = """
import time
import ray
from ray.util import placement_group
ray.init()
@ray.remote(num_cpus=0, resources={"nothing": 1}, label_selector={"team": "a"})
class Actor:
    pass
gang, actor = placement_group([{"GPU": 9}]), Actor.remote()
time.sleep(600)
"""
CLIENT = """
import sys
import ray
ray.init(sys.argv[1], log_to_driver=False)
print(ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote()))
"""


HOLDS_A_NODE = """
import ray, signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit()
ray.init()
signal.signal(signal.SIGTERM, save)
ray.get(ray.remote(num_gpus=1)(lambda: time.sleep(600)).remote())
"""


def profile_of(name: str, **changes: Any) -> Profile:
    group = {
        "name": "gpu", "cpu": "1", "memory": "1Gi", "gpu": 1, "gpu_type": "A100-80GB", "market": "spot",
        "max": 2, "idle_seconds": 4, "env": {"TEAM": "a"},
    }  # fmt: skip
    document = {
        "name": name,
        "head": {"env": {"TEAM": "b", "SHAPE": "round", "HEAD": "1"}},
        "platform": "local",
        "groups": [group],
        "storage": {"uri": "runs"},
        "idle_shutdown_seconds": None,
    }
    return Profile.model_validate({**document, **changes})


def run_of(cluster: LocalCluster) -> ClusterRecord:
    return ClusterRecord(**json.loads((cluster.folder / "cluster.json").read_text()))


def recorders(run: ClusterRecord) -> list[psutil.Process]:
    """The processes that record the nodes of a cluster."""
    found = []
    for process in processes(run):
        with suppress(psutil.Error):
            found += [process] * (RECORDER in process.cmdline())
    return found


def record_of(cluster: LocalCluster) -> dict[str, bytes]:
    """The files of the record of a cluster's nodes."""
    folder = Path(cluster.storage, record_folder(cluster.profile))
    return {str(path): path.read_bytes() for path in folder.glob("*/*.jsonl")}


def recorded(cluster: LocalCluster, group: str) -> list[Interval]:
    """The intervals of a group's nodes in the record."""
    found = read(record_of(cluster))
    return [each for each in found.intervals if each.group == group] if found else []


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user who has never used Ray; this process is that user, too."""
    home = tmp_path_factory.mktemp("local-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        yield clean_environment(home)
    gone(clean_environment(home))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory in which the cluster is started."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def cluster(env: dict[str, str], folder: Path) -> Iterator[LocalCluster]:
    """A cluster that another process, which has exited, has started."""
    cluster = LocalCluster(profile_of("first", env={"COLOUR": "blue", "SHAPE": "square"}))
    try:
        command = [sys.executable, "-c", UP, cluster.profile.model_dump_json()]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "the head" in done.stdout
        yield cluster
    finally:
        run = run_of(cluster)
        cluster.down()
    assert processes(run) == []
    assert not Path(run.scratch).exists()
    assert cluster.state().state == "absent"


def test_a_cluster_outlives_the_command_that_started_it(cluster: LocalCluster) -> None:
    state = cluster.state()
    assert (state.state, state.detail) == ("ready", "")
    assert [(group.name, group.min, group.max, group.desired, group.ready) for group in state.groups] == [("gpu", 0, 2, 0, 0)]
    assert [node.group for node in state.nodes] == ["head"]
    assert state.price == 0
    assert cluster.dashboard().version() == state.ray_version
    assert differing(cluster.dashboard().version(), cluster.dashboard().python_version()) == []


def test_up_of_a_cluster_that_runs_is_in_the_history(cluster: LocalCluster, env: dict[str, str], folder: Path) -> None:
    (folder / "first.yaml").write_text(to_yaml(cluster.profile.model_dump(mode="json")))
    command = Command(folder, env)
    before = json.loads(command("status", "first.yaml", "--history", "--json").out)["events"]
    assert command("up", "first.yaml").code == 0
    assert command("down", "first.yaml", "--set", "name=none", "--yes").code == 0, "there is none, so nothing is added"
    found = json.loads(command("status", "first.yaml", "--history", "--json").out)["events"]
    actions, known = [event["what"] for event in found if event["origin"]], [e["what"] for e in before if e["origin"]]
    assert actions == [*known, "up"]
    following = command.start("submit", "first.yaml", "--", "echo runs; sleep 1000")
    assert following.stdout is not None
    assert any("runs" in line for line in following.stdout)
    following.send_signal(signal.SIGINT)
    assert following.wait(timeout=300) == 130
    found = json.loads(command("status", "first.yaml", "--history", "--json").out)["events"]
    stopped = [event for event in found if event["origin"]][-1]
    assert (stopped["what"], stopped["who"], stopped["which"][:4]) == ("stop", getpass.getuser(), "job-")
    assert command("status", "first.yaml", "--since", "1h").code == 2


def test_a_spent_budget_refuses_work_but_not_that_which_is_started_over_it(
    cluster: LocalCluster, env: dict[str, str], folder: Path
) -> None:
    profile, command = cluster.profile.model_dump(mode="json"), Command(folder, env)
    (folder / "spent.yaml").write_text(to_yaml({**profile, "budget": {"month": 1e-9}}))
    wait_for(lambda: any(each.seconds > 0 for each in recorded(cluster, "head")), "the head in the record")
    refused = command("train", "digits", "--on", "spent.yaml")
    assert refused.code == 1
    assert "no new work starts: budget of first: $" in refused.err
    assert "or add --over-budget" in refused.err
    assert command("submit", "spent.yaml", "--over-budget", "--", "true").code == 0
    events = json.loads(command("status", "spent.yaml", "--history", "--json").out)["events"]
    assert [each["which"].partition("-")[0] for each in events if each["what"] == "over budget"] == ["job"]
    assert "1. no new work starts: budget of first: $" in command("why", "digits", "--on", "spent.yaml").out
    (budget,) = json.loads(command("status", "spent.yaml", "--json").out)["budgets"]
    assert (budget["period"], budget["money"] > budget["limit"]) == ("month", True)


@pytest.mark.accept
def test_a_budget_that_stops_ends_jobs_as_stop_does_and_not_what_was_started_over_it(env: dict[str, str], folder: Path) -> None:
    group = {**profile_of("stops").model_dump(mode="json")["groups"][0], "price_per_hour": 3600}
    paid = profile_of("stops", groups=[group], budget={"day": 2, "stop": True})
    (folder / "stops.yaml").write_text(to_yaml(paid.model_dump(mode="json")))
    (folder / "holds.py").write_text(HOLDS_A_NODE)
    command, work = Command(folder, env), ("--", "python", "holds.py")
    try:
        assert command("up", "stops.yaml").code == 0
        over = command("submit", "stops.yaml", "--over-budget", "--detach", "--", "sleep", "600").out.strip()
        ended = command("submit", "stops.yaml", *work, timeout=600)
        assert (ended.code, "saved" in ended.out) == (130, True), ended.err
        events = json.loads(command("status", "stops.yaml", "--history", "--json").out)["events"]
        (stop,) = [event for event in events if event["what"] == "stop"]
        assert stop["who"] == "budget"
        assert re.fullmatch(r"the budget is spent: \$[\d.]+ of \$2.00 today", stop["origin"])
        jobs = {job["id"]: job["status"] for job in json.loads(command("status", "stops.yaml", "--json").out)["jobs"]}
        assert (jobs[over], jobs[stop["which"]]) == ("RUNNING", "STOPPED")
        assert "--history says by whom" in command("why", stop["which"], "--on", "stops.yaml").out
        assert "no new work starts: budget of stops: $" in command("submit", "stops.yaml", *work).err
    finally:
        assert command("down", "stops.yaml", "--yes").code == 0


@pytest.mark.accept
def test_who_did_what_is_in_the_history_also_after_the_cluster_is_gone(env: dict[str, str], folder: Path) -> None:
    (folder / "audit.yaml").write_text(to_yaml(profile_of("audit").model_dump(mode="json")))
    command = Command(folder, env)
    empty = command("status", "audit.yaml", "--history")
    assert (empty.code, empty.out, empty.err) == (0, "", "the record of audit has nothing in that time\n")
    try:
        assert command("up", "audit.yaml").code == 0
        assert command("submit", "audit.yaml", "--", "true").code == 0
    finally:
        assert command("down", "audit.yaml", "--yes").code == 0
    found = json.loads(command("status", "audit.yaml", "--history", "--json").out)["events"]
    assert [event["what"] for event in found] == ["up", "submit", "ended SUCCEEDED", "down"]
    assert {event["who"] for event in found if event["what"] != "ended SUCCEEDED"} == {getpass.getuser()}
    lines = command("status", "audit.yaml", "--history", "--since", "1h").out.splitlines()
    assert [line.split()[3] for line in lines[1:2]] == ["up"]
    assert command("down", "audit.yaml", "--yes").code == 0, "there is none, so nothing is added"
    assert len(command("status", "audit.yaml", "--history").out.splitlines()) == len(lines)


def test_a_session_has_the_ports_of_the_cluster_and_refuses_to_promise_others(
    cluster: LocalCluster, env: dict[str, str]
) -> None:
    path = Path(env["HOME"], "first.yaml")
    path.write_text(to_yaml(cluster.profile.model_dump(mode="json")))
    command = Command(path.parent, env)
    assert cluster.client_address in command("session", path).out
    for option in ("--port", "--client-port"):
        refused = command("session", path, option, "8299")
        assert refused.code == 2
        assert "a cluster on this machine has ports of its own" in refused.err
        assert cluster.dashboard().endpoint.url in refused.err


def test_up_leaves_a_cluster_that_runs_alone_but_for_a_recorder_that_has_gone(cluster: LocalCluster) -> None:
    before = run_of(cluster)
    (recorder,) = recorders(before)
    recorder.kill()
    wait_for(lambda: recorders(before) == [], "the recorder to go")
    list(cluster.up())
    (again,) = recorders(before)
    list(cluster.up())
    assert recorders(before) == [again]
    assert cluster.changes() == []
    assert run_of(cluster) == before


def test_prometheus_finds_the_metrics_of_groups_and_of_the_heads_ray(cluster: LocalCluster) -> None:
    config = json.loads((cluster.folder / "prometheus.json").read_text())
    assert [Path(path).is_file() for path in config["rule_files"]] == [True]
    target, _ = config["scrape_configs"][0]["static_configs"][0]["targets"]

    def page() -> str:
        with suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=60) as response:
            return str(response.read().decode())
        return ""

    wait_for(lambda: 'ray_heliostat_group_nodes{group="head",state="idle"} 1' in page(), "the groups")
    wait_for(lambda: "ray_node_mem_used{" in page(), "what drivers and Ray export")


def test_a_changed_profile_is_refused_and_ends_nothing(cluster: LocalCluster) -> None:
    before = run_of(cluster)
    with pytest.raises(UserError, match=r"differs: env\.COLOUR, storage\.uri\n.*heliostat down first"):
        list(LocalCluster(profile_of("first", env={"COLOUR": "red", "SHAPE": "square"}, storage={"uri": "other"})).up())
    assert run_of(cluster) == before
    assert before.alive


def test_only_this_machine_gets_in_and_only_with_the_token(cluster: LocalCluster) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(cluster.dashboard().endpoint.url + "/api/version")
    addresses = set()
    for process in processes(run_of(cluster)):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            listening = [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
            addresses |= {ip.removeprefix("::ffff:") for ip in listening}
    assert addresses == {"127.0.0.1"}


def test_gpu_nodes_come_with_the_work_and_go_after_it(cluster: LocalCluster, folder: Path) -> None:
    dashboard = cluster.dashboard()
    code = folder / "code"
    code.mkdir()
    (code / "job.py").write_text(JOB)
    began = time.monotonic()
    submit(dashboard, Work("two-gpus", ["python", "job.py"], contents(code)))
    both = until(cluster, lambda state: state.gpus_used == 2)
    print(f"0 -> 2: {time.monotonic() - began:.1f} s")
    assert [(group.desired, group.ready, group.idle) for group in both.groups] == [(2, 2, 0)]
    assert {node.name for node in both.nodes} >= {"head", "gpu-1", "gpu-2"}
    assert [(job.id, job.status) for job in both.jobs if not job.done] == [("two-gpus", "RUNNING")]
    assert both.price == pytest.approx(2 * cluster.profile.group("gpu").price)
    asked = time.monotonic()
    used = usage(dashboard)

    def lines(pattern: bytes) -> list[bytes]:
        return re.findall(pattern, b"".join(record_of(cluster).values()))

    busy = rb'"e":"node"[^\n]*"name":"(gpu-[12])"[^\n]*"state":"busy"'
    wait_for(lambda: len({*lines(busy)}) == 2, "the record of both nodes at work")
    released = time.monotonic()  # before it, no node can go, however late the end of the job is seen
    (folder / "runs-seen").touch()
    assert sorted((node.group, node.gpus, node.gpus_used) for node in used.values()) == [
        ("gpu", 1, 1), ("gpu", 1, 1), ("ray.head.default", 0, 0),
    ]  # fmt: skip

    wait_for(lambda: dashboard.job("two-gpus").done, "the job to end")
    assert dashboard.job("two-gpus").status == "SUCCEEDED", dashboard.logs("two-gpus")
    ended = time.monotonic()
    until(cluster, lambda state: (state.groups[0].desired, state.gpus_used) == (0, 0))
    print(f"2 -> 0: {time.monotonic() - ended:.1f} s")

    wait_for(lambda: len(lines(b'"e":"gone"')) == 2, "the record of the end of both nodes")
    over = time.monotonic()
    nodes = recorded(cluster, "gpu")
    assert {each.name for each in nodes} == {"gpu-1", "gpu-2"}
    # A look of a busy machine can miss the four idle seconds, or get no answer of Ray.
    assert {each.state for each in nodes} - {"idle", "unknown"} == {"starting", "busy"}
    assert 2 * (released - asked) < sum(each.seconds for each in nodes) < 2 * (over - began)
    # Ray lists a task a second or two after it has started.
    assert {job for each in nodes if each.state == "busy" for job in each.work} <= {"two-gpus", ""}
    assert {each.price for each in nodes} == {cluster.profile.group("gpu").price}

    seen = json.loads(dashboard.logs("two-gpus").partition("seen ")[2].splitlines()[0])
    assert seen["nodes"] == 2
    assert seen["here"] == ["job.py"], "a new node has deleted the working directory of the job"
    assert seen["labels"] | {"ray.io/node-group": "gpu", "ray.io/accelerator-type": "A100-80GB"} == seen["labels"]
    assert seen["python"] == sys.executable
    assert seen["env"]["HELIOSTAT_STORAGE"] == str(folder / "runs")
    assert json.loads(seen["env"]["HELIOSTAT_NODES"]) == cluster.profile.capacity
    ours = ("COLOUR", "SHAPE", "TEAM", "HEAD")
    assert [seen["env"].get(name) for name in ours] == ["blue", "round", "b", "1"]
    assert [seen["there"].get(name) for name in ours] == ["blue", "square", "a", None]
    assert "RAY_AUTH_TOKEN" not in seen["env"]


def test_a_log_arrives_on_a_websocket(cluster: LocalCluster) -> None:
    dashboard = cluster.dashboard()
    dashboard.submit("talks", "echo here I am", {}, {})
    socket, heard = dashboard.tail("talks"), ""
    socket.settimeout(120)
    try:
        while "here I am\n" not in heard:
            heard += str(socket.recv())
    finally:
        socket.close()


def test_what_a_job_waits_for_is_known(cluster: LocalCluster) -> None:
    dashboard = cluster.dashboard()
    dashboard.submit("waits", shlex.join(["python", "-c", WAITS]), {}, {})
    expected = [Request({"GPU": 9.0}), Request({"nothing": 1.0}, {"team": "a"})]
    found: list[Request] = []

    def waits() -> bool:
        found[:] = [request for demand in ray_state(dashboard).demands_of("waits") for request in demand.requests]
        return found == expected

    try:
        wait_for(waits, "the job's requests")
        seen = cluster.observe()
        job = seen.job("waits")
        assert job is not None
        why = of_job(seen, job)
        assert why.state == "waits"
        assert [cause.what.partition(": ")[2] for cause in why.causes] == [
            "no group has nodes with 9 GPU (gpu has 1 CPU, 1 GPU)", "no group has nodes with 1 nothing (gpu has 1 CPU, 1 GPU)",
        ]  # fmt: skip
        assert "for 9 GPU for its placement group" in cluster.state().waits["waits"]
    finally:
        print(found, dashboard.logs("waits"))
        dashboard.stop("waits")


def test_a_ray_client_connects_at_once(cluster: LocalCluster, env: dict[str, str]) -> None:
    """The fork of Ray's server fails every third time without GRPC_ENABLE_FORK_SUPPORT=0 (ray#63202)."""
    command = [sys.executable, "-c", CLIENT, cluster.client_address]
    done = subprocess.run(command, env={**env, **cluster.environment}, capture_output=True, text=True, timeout=300)
    assert done.stdout == "42\n", done.stderr


def test_a_service_on_a_cluster_answers_follows_its_alias_and_ends(
    cluster: LocalCluster, env: dict[str, str], folder: Path
) -> None:
    pytest.importorskip("fastapi", reason="ray[serve] is not installed")
    registry = two_versions(Path(cluster.storage))
    (folder / "first.yaml").write_text(to_yaml(cluster.profile.model_dump(mode="json")))
    command = Command(folder, env)
    served = command("serve", "churn@champion", "--on", "first.yaml", "--port", "0")
    assert served.code == 0, served.err
    (state,) = json.loads(command("serve", "status", "--on", "first.yaml", "--json").out)
    assert (state["name"], state["status"], state["replicas"]) == ("churn", "RUNNING", 1)
    first, second = (listed.version.manifest.checksum for listed in registry.versions("churn"))
    assert state["served"] == [{"reference": "churn@champion", "version": "1", "checksum": first}]
    host, token = state["url"].removeprefix("http://"), Path(env["HOME"], ".heliostat/services/churn.token").read_text().strip()

    def answer(given: str = token) -> tuple[int, Any]:
        connection = HTTPConnection(host, timeout=300)
        connection.request("POST", "/v1/predict", json.dumps(GOOD), {"Authorization": f"Bearer {given}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    assert answer("x" * 20)[0] == 401
    assert (answer()[0], answer()[1]["version"]) == (200, "1")
    registry.promote("churn@2")
    wait_for(lambda: answer()[1]["version"] == "2", "the second version")
    row = command("serve", "status", "churn", "--on", "first.yaml").out.splitlines()[1].split()
    assert row[-4:-1] == ["churn@champion", "2", second[:12]]
    refused = command("serve", "churn@9", "--on", "first.yaml")
    assert (refused.code, "has no version '9'" in refused.err) == (2, True)
    assert answer()[0] == 200, "what was refused has not changed the service"
    assert command("serve", "stop", "churn", "--on", "first.yaml").code == 0
    with pytest.raises(ConnectionError):  # refused, or reset by a process that ends at this moment
        answer()
    assert "serves no churn" in command("serve", "stop", "churn", "--on", "first.yaml").err
    assert json.loads(command("serve", "status", "--on", "first.yaml", "--json").out) == []


def test_a_second_cluster_runs_next_to_the_first_is_replaced_crashes_and_is_restarted(cluster: LocalCluster) -> None:
    group = {"name": "cpu", "cpu": "1", "memory": "1Gi", "min": 1, "max": 1}
    second = LocalCluster(profile_of("second", groups=[group]))
    try:
        list(second.up())
        first_run, old = run_of(cluster), run_of(second)
        assert [group.ready for group in second.state().groups] == [1]
        assert not set(first_run.ports.values()) & set(old.ports.values())

        changed = LocalCluster(profile_of("second", groups=[{**group, "min": 0}]))
        list(changed.up(replace=True))
        assert processes(old) == []
        assert run_of(second).profile["groups"][0]["min"] == 0

        psutil.Process(run_of(second).pid).kill()
        wait_for(lambda: second.state().state == "failed", "the cluster to be known as failed")
        with pytest.raises(NotComing, match="the head of second has exited"):
            list(second.wake())
        list(changed.up())
        assert second.state().state == "ready"

        left = run_of(second)
        psutil.Process(left.pid).kill()
        assert second.down() == ["Ray cluster second"]
        assert processes(left) == []
        assert second.state() == State("second", "local", "absent")
        assert first_run.alive
        assert cluster.state().state == "ready"
    finally:
        second.down()
    assert second.down() == []
    with pytest.raises(NotFound, match="heliostat up second"):
        second.dashboard()


def test_a_head_that_cannot_start_is_explained_by_its_log(env: dict[str, str]) -> None:
    broken = LocalCluster(profile_of("broken", env={"PYTHONHOME": "/nowhere"}))
    with pytest.raises(NotComing, match="No module named 'encodings'"):
        list(broken.up())
    state = broken.state()
    assert state.state == "failed"
    assert "head.log" in state.detail
    broken.down()
    assert broken.state().state == "absent"


def test_a_process_that_has_the_pid_of_a_head_by_now_is_not_killed(env: dict[str, str], tmp_path: Path) -> None:
    cluster = LocalCluster(profile_of("forgotten"))
    cluster.folder.mkdir(parents=True)
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        run = ClusterRecord(str(tmp_path / "scratch"), {}, "", "2.60.0", {}, stranger.pid)
        (cluster.folder / "cluster.json").write_text(json.dumps(vars(run)))
        assert cluster.state().state == "failed"
        assert cluster.down() == ["Ray cluster forgotten"]
        assert stranger.poll() is None
        stranger.kill()


def test_each_group_has_its_own_idle_time_and_its_own_labels() -> None:
    groups = [
        {"name": "cpu", "cpu": "500m", "max": 3, "idle_seconds": 600, "labels": {"team": "vision"}},
        {"name": "gpu", "gpu": 2, "gpu_type": "A100-80GB", "market": "spot", "max": 4, "idle_seconds": 30},
    ]
    document = autoscaling(profile_of("groups", groups=groups), 6379, "/tmp/scratch")
    cpu, gpu = (document["available_node_types"][name] for name in ("cpu", "gpu"))
    assert [kind["idle_timeout_s"] for kind in (cpu, gpu)] == [600, 30]
    assert (cpu["resources"]["CPU"], gpu["resources"]["GPU"]) == (1, 2)
    assert cpu["labels"] == {"ray.io/node-group": "cpu", "ray.io/market-type": "on-demand", "team": "vision"}
    assert gpu["priority"] > cpu["priority"]
    assert document["max_workers"] == 7


def test_what_a_placement_group_reserves_counts_as_held() -> None:
    lines = ["0.0/4.0 CPU", "1.0/4.0 GPU (1.0 used of 3.0 reserved in placement groups)", "0B/1.50GiB memory"]
    assert held("\n".join(lines)) == {"CPU": 0, "GPU": 3, "memory": 0}


def until(cluster: LocalCluster, condition: Callable[[State], bool]) -> State:
    """Wait for the first state that satisfies the condition."""
    states: list[State] = []

    def holds() -> bool:
        states.append(cluster.state())
        return condition(states[-1])

    wait_for(holds, "another state of the cluster")
    return states[-1]
