"""Pods, nodes and processes that go, with notice and without: the run continues, with the same result.

``make soak`` breaks it twenty times at random moments; its storage is then an object store that fails as well. The seed is
printed, and ``SOAK_SEED`` repeats the faults.
"""

import base64
import io
import json
import os
import random
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from kubernetes.stream import stream

from tests.accept.conftest import overlay
from tests.accept.test_finetuning import BUNDLED, LORA, MADE_TEXTS
from tests.conftest import ROOT
from tests.faults.conftest import CONFIG, Seen, assert_same_weights, samples_by_step, write_project
from tests.kubernetes.conftest import ON_GPUS, Machines, Place, Running, node_of_workers, ray_pods, whole_node, worker_pods
from tests.outage import KEYS, Proxy, in_front_of
from tests.wheels import wheel

pytestmark = ON_GPUS
Samples = dict[int, list[str]]
MOUNT = "/mnt/heliostat"
TRAINERS = Path(__file__).parent.parent / "accept/trainers"
FAULTS = int(os.environ.get("SOAK_FAULTS", "1"))
STEPS = 200 + 200 * FAULTS
SCRIPT_STEPS = 400
TRAINS = r"^step +\d+ +loss"
NOTICE = r"a node is being drained; saved at step [1-9]"
LOSS = r"; resumes .*\(failure \d+ of 20\)"
GONE = rf"(was lost with its node|does not respond|lost its connection to another worker).*{LOSS}"
DROPPED = 0.02
"""The share of the connections to the object store that are dropped, always."""
KINDS = ("store", "pod", "node", "driver", "worker", "raylet", "head", "drain")
GATEWAY = """
import socket, struct
routes = (line.split() for line in open("/proc/net/route"))
print(next(socket.inet_ntoa(struct.pack("<L", int(route[2], 16))) for route in routes if route[1] == "00000000"))
"""
"""Prints the address of this machine as a pod sees it."""
KILL = """
import os, re, sys
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        line = open(f"/proc/{pid}/cmdline").read().replace("\\0", " ")
    except OSError:
        continue
    if re.match(sys.argv[1], line):
        os.kill(int(pid), 9)
        print("killed", line)
"""


@pytest.fixture(scope="module")
def cluster(place: Place) -> Iterator[Path]:
    """A standing cluster of two GPU nodes, and a project with a slow task."""
    write_project(place.command.cwd, CONFIG)
    path = place.profile("survivor", groups=[{**whole_node(place.kube), "idle_seconds": 120}])
    done = place.command("up", path)
    assert done.code == 0, done.err
    yield path
    assert place.command("down", path, "--yes").code == 0


def start(place: Place, profile: Path, name: str, *settings: str) -> Running:
    always = (f"name={name}", f"steps={STEPS}", "max_failures=20", f"model.samples={MOUNT}/samples/{name}")
    flags = [part for setting in (*always, *settings) for part in ("--set", setting)]
    return Running(place, "train", "config.yaml", "--on", profile, "--json", *flags)


def run_in(place: Place, pod: dict[str, Any], *command: str) -> str:
    """What a command in a pod's Ray container prints."""
    out: str = stream(
        client.CoreV1Api(place.kube.api.client).connect_get_namespaced_pod_exec,
        pod["metadata"]["name"],
        place.namespace,
        container=pod["spec"]["containers"][0]["name"],
        command=list(command),
        stdout=True,
        stderr=True,
    )
    return out


def fetch(place: Place, name: str, *folders: str) -> tuple[Seen, Samples]:
    """The folder of a run and the samples of its steps, from the cluster's storage, by its head."""
    (head,) = ray_pods(place, "head")
    wanted = " ".join(f"{folder}/{name}" for folder in folders or ("runs", "samples"))
    packed = run_in(place, head, "sh", "-c", f"tar -C {MOUNT} -cz {wanted} | base64 -w 0")
    folder = place.command.cwd.parent / "fetched"
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed, validate=True))) as archive:
        archive.extractall(folder, filter="data")
    return Seen.at(folder / "runs" / name), samples_by_step(folder / "samples" / name)


@pytest.fixture(scope="module")
def undisturbed(place: Place, cluster: Path) -> tuple[Seen, Samples]:
    start(place, cluster, "calm", "model.seconds=0").result()
    return fetch(place, "calm")


@pytest.fixture
def store(place: Place, cluster: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy in front of an object store, on this machine's side of the pods' network."""
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    (head,) = ray_pods(place, "head")
    with in_front_of(endpoint, run_in(place, head, "python", "-c", GATEWAY).strip()) as proxy:
        yield proxy


class Soak:
    """A run that is broken again and again, and started again by the same command when its driver is gone."""

    def __init__(self, place: Place, profile: Path, machines: Machines, store: Proxy, dice: random.Random) -> None:
        self.place, self.profile, self.machines, self.store, self.dice = place, profile, machines, store, dice
        self.store.fault = DROPPED
        self.run = self.start()
        self.run.says(TRAINS)

    def start(self) -> Running:
        return start(self.place, self.profile, "soaked", "model.seconds=0.05", f"storage={self.store.uri('soak')}")

    def fault(self, kind: str) -> None:
        """Break it, and wait until it trains again."""
        if kind == "store":  # no worker ends
            self.store.break_down(self.dice)
            self.run.says(TRAINS, after=len(self.run.lines))
            return
        node = node_of_workers(self.place)
        pod = self.dice.choice([pod for pod in worker_pods(self.place) if pod["status"]["phase"] == "Running"])
        (head,) = ray_pods(self.place, "head")
        faults: dict[str, tuple[Callable[[], None], str]] = {
            "pod": (lambda: self.delete(pod), NOTICE),
            "node": (lambda: self.machines.replace(node), GONE),
            "drain": (lambda: self.machines.replace(node, "drain"), NOTICE),
            "worker": (lambda: self.kill(pod, "ray::RayTrainWorker"), LOSS),
            "raylet": (lambda: self.kill(pod, r"\S+/raylet/raylet "), GONE),
            "driver": (lambda: self.kill(head, r"\S*python\S* -P -m heliostat train "), ""),
            "head": (lambda: self.delete(head, grace=0), ""),
        }
        do, output = faults[kind]
        after = len(self.run.lines)
        do()
        if output:
            self.run.says(output, after=after)
            self.run.says(TRAINS, after=len(self.run.lines))
        else:  # the driver is gone
            assert self.run.end() != 0, "".join(self.run.lines)
            self.run = self.start()
            self.run.says(TRAINS)

    def delete(self, pod: dict[str, Any], grace: int | None = None) -> None:
        """With a notice, or with none (``grace`` 0)."""
        api = self.place.kube.api
        body = None if grace is None else {"gracePeriodSeconds": grace}
        api.request("DELETE", api.path("Pod", pod["metadata"]["name"]), body)

    def kill(self, pod: dict[str, Any], process: str) -> None:
        """``kill -9`` the processes in a pod whose command line begins so."""
        said = run_in(self.place, pod, "python", "-c", KILL, process)
        assert "killed" in said, said


@pytest.mark.soak
def test_faults_at_random_moments_change_nothing(
    place: Place, cluster: Path, undisturbed: tuple[Seen, Samples], machines: Machines, store: Proxy
) -> None:
    seed = int(os.environ.get("SOAK_SEED", time.time_ns() % 10**6))
    print(f"SOAK_SEED={seed} SOAK_FAULTS={FAULTS}")
    dice = random.Random(seed)
    soak = Soak(place, cluster, machines, store, dice)
    for number in range(FAULTS):
        time.sleep(dice.uniform(0.0, 4.0))
        kind = KINDS[number] if number < len(KINDS) else dice.choice(KINDS)
        began = time.monotonic()
        soak.fault(kind)
        print(f"{number + 1:>3} {kind:<7} trains again after {time.monotonic() - began:.1f} s")
    metrics = soak.run.result()["metrics"]
    run = Seen.at(store.uri("soak/soaked").replace(store.address, store.upstream))
    samples = fetch(place, "soaked", "samples")[1]
    calm, expected = undisturbed
    assert metrics == run.result()["metrics"] == calm.result()["metrics"]
    assert run.losses == calm.losses
    assert run.measured == calm.measured
    assert_same_weights(run, calm)
    assert samples == expected
    for drain in (event for event in run.events if event["event"] == "drain"):
        started = next(start for start in run.starts if start["time"] > drain["time"])
        assert started["step"] == drain["step"], "a notice loses no step"
        print(f"from a notice to the saved checkpoint: {drain['seconds']:.2f} s")


@pytest.mark.accept  # make test has it on a cluster of processes: tests/faults/test_elastic.py
def test_from_two_nodes_to_one_and_back_with_the_same_samples_in_each_step(
    place: Place, cluster: Path, undisturbed: tuple[Seen, Samples], machines: Machines
) -> None:
    elastic = start(place, cluster, "elastic", "workers=[1,2]", "grow_seconds=2", "model.seconds=0.05", "model.alone=0.2")
    elastic.says(TRAINS)
    node = node_of_workers(place)
    machines.lose(node)
    try:
        elastic.says(GONE)
        elastic.says(TRAINS, after=len(elastic.lines))
    finally:
        machines.bring(node)
    elastic.says("more workers fit")
    elastic.result()
    run, samples = fetch(place, "elastic")
    assert [len(start["workers"]) for start in run.starts][-3:] == [2, 1, 2]
    assert len({worker["node"] for worker in run.starts[-1]["workers"]}) == 2
    calm, expected = undisturbed
    assert samples == expected
    assert list(samples) == list(range(STEPS))
    assert run.losses.keys() == calm.losses.keys()
    # Equal up to rounding, which training amplifies from step to step.
    assert max(abs(run.losses[step] - calm.losses[step]) for step in run.losses if step <= 300) < 1e-2


def test_a_script_for_torchrun_continues_after_the_loss_of_a_node(place: Place, cluster: Path, machines: Machines) -> None:
    arguments = ("steps.py", str(SCRIPT_STEPS), "1", "0")
    run = Running(place, "torchrun", "--on", cluster, "--workers", "2", "--max-restarts", "3", *arguments)
    pods = {run.says(rf"^\[rank {rank}\] runs in (\S+)$")[1] for rank in (0, 1)}
    assert len(pods) == 2
    run.says(r"^\[rank 0\] step 100 ")
    machines.replace(node_of_workers(place))
    assert run.end() == 0, "".join(run.lines)
    totals = sorted(line for line in run.out if "total" in line)
    assert float(run.says(r"^heliostat: cost (\S+)$")[1]) > 0
    assert totals == [f"[rank {rank}] total {2 * SCRIPT_STEPS}\n" for rank in (0, 1)], "no step is lost, none is made twice"


def test_the_exit_code_of_a_script_is_that_of_the_command(place: Place, cluster: Path) -> None:
    """Also of one that needs a package; and where the files are that it has written to its working directory."""
    lacking = wheel(place.command.cwd, "tiny", "1.2")
    (place.command.cwd / "needs.txt").write_text(lacking.name)
    code = (
        "import os, sys, tiny\nopen('written.txt', 'w').close()\nsys.exit(int(sys.argv[1]) * int(os.environ['WORLD_SIZE']))\n"
    )
    (place.command.cwd / "exits.py").write_text(code)
    run = Running(place, "torchrun", "--on", cluster, "--workers", "2", "--requirements", "needs.txt", "exits.py", "3")
    assert run.end() == 6, "".join(run.lines)
    run.says(r"^heliostat: keeps 1 file \(0.0 MB\) of the working directory in \S+/runs/exits/files: written.txt$")


@pytest.mark.accept
@pytest.mark.parametrize(
    ("name", "tenth", "how"),
    [
        ("nano", r"iter 10\b", "kill"),
        ("accelerated", r"step 10\b", "drain"),
        ("hf", r"'epoch': '?1\.25\b", "kill"),
        ("lit", r"step 10\b", "kill"),
    ],
)
def test_a_trainer_of_others_continues_from_its_own_checkpoints(
    place: Place, cluster: Path, machines: Machines, name: str, tenth: str, how: str
) -> None:
    """With packages that the image lacks, as `tests/accept/test_trainers.py` has it on a laptop cluster."""
    script = TRAINERS / f"{name}.py"
    (place.command.cwd / script.name).write_text(script.read_text())
    (place.command.cwd / "trainers.txt").write_text("transformers>=4.50,<6\naccelerate>=1,<2\nlightning>=2.5,<3\n")
    common = ("torchrun", "--on", cluster, "--workers", "2", "--requirements", "trainers.txt")
    assert Running(place, *common, "--name", f"{name}-calm", script.name, "0").end() == 0
    run = Running(place, *common, "--name", name, "--max-restarts", "3", script.name, "0.5")
    run.says(tenth)
    machines.replace(node_of_workers(place), how)
    assert run.end() == 0, "".join(run.lines)
    (calm, _), (lost, _) = fetch(place, f"{name}-calm", "runs"), fetch(place, name, "runs")
    assert lost.losses == pytest.approx(calm.losses, rel=1e-6)
    assert len(lost.starts) > 1
    assert lost.starts[-1]["step"] >= 4, "it resumed from a checkpoint"


@pytest.mark.accept
def test_a_pretrained_model_with_adapters_has_the_losses_in_pods_that_it_has_here(
    place: Place, cluster: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    programs = overlay(tmp_path_factory.mktemp("venv"), "transformers>=4.50,<6", "peft>=0.15,<1")
    work = place.command.cwd
    env = {**place.command.env, "PATH": f"{programs}:{place.command.env['PATH']}", "PYTHONPATH": str(ROOT)}
    subprocess.run([programs / "python", "-c", MADE_TEXTS], cwd=work, env=env, check=True, timeout=300)
    for task, config in BUNDLED.items():
        lora = {"lora": {**LORA, "target_modules": ["c_attn"]}, **config["model"]}
        lengths = {"workers": 2, "global_batch": 16, "steps": 20, "log_every": 1, "evaluate_every": 10}
        packages = {"requirements": ["transformers>=4.50,<6", "peft>=0.15,<1"]}
        (work / f"{task}.yaml").write_text(json.dumps({"task": task, **config, "model": lora, **lengths, **packages}))
        train: list[str | Path] = [programs / "python", "-m", "heliostat", "train", f"{task}.yaml"]
        subprocess.run(train, cwd=work, env=env, check=True, timeout=400)
        subprocess.run([*train, "--on", cluster], cwd=work, env=env, check=True, timeout=400)
        run, here = fetch(place, task, "runs")[0], Seen.at(work / "runs" / task)
        assert len(run.losses) == 20
        assert run.losses == pytest.approx(here.losses, rel=1e-6)
        assert run.result()["metrics"] == here.result()["metrics"]
