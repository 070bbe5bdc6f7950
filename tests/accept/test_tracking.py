"""Trackers against the real ones: an MLflow server, TensorBoard's own reader, W&B's offline files; kill -9 and outages."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.ports import free_ports
from heliostat.folder import Folder
from heliostat.workloads.run.journal import read_journal
from tests.accept.conftest import overlay
from tests.conftest import ROOT, clean_environment, end_group, wait_for

TASK = """
import time

from torch import nn

from heliostat import Task


class Slow(Task):
    metric, better = "accuracy", "higher"

    def model(self):
        return nn.Linear(30, 2)

    def loss(self, model, batch):
        time.sleep(0.01)
        return nn.functional.cross_entropy(model(batch["features"]), batch["label"])

    def metrics(self, model, batch):
        return {"accuracy": (model(batch["features"]).argmax(1) == batch["label"]).float().mean()}
"""
CONFIG = """
task: slow:Slow
dataset: {source: breast-cancer}
steps: 2000
log_every: 5
evaluate_every: 100
checkpoint_every: 50
tracking: [tensorboard, mlflow, {wandb: {mode: offline}}]
"""
SWEEP = """
train: {task: slow:Slow, dataset: {source: breast-cancer}, steps: 40, evaluate_every: 10}
space: {optimizer.lr: {choice: [0.001, 0.01, 0.1]}, seed: {choice: [1]}}
algorithm: grid
scheduler: none
tracking: [mlflow, tensorboard, {wandb: {mode: offline}}]
"""
MLFLOW = """
import json, sys
from mlflow import MlflowClient
client, found = MlflowClient(), []
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        id = run.info.run_id
        found.append({
            "name": run.info.run_name, "id": id, "status": run.info.status, "tags": run.data.tags, "params": run.data.params,
            "files": [file.path for file in client.list_artifacts(id)],
            "metrics": {key: [[m.step, m.value] for m in client.get_metric_history(id, key)] for key in run.data.metrics},
        })
print(json.dumps(found))
"""
TENSORBOARD = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0}).Reload()
print(json.dumps({tag: [[e.step, e.value] for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}))
"""
WANDB = """
import json, pathlib, struct, sys
from wandb.proto.wandb_internal_pb2 import Record

def records(data):  # LevelDB's log format, after a header
    at, whole = 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        whole = (whole if kind in (3, 4) else b"") + data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield Record.FromString(whole)

found = {}
for file in pathlib.Path(sys.argv[1]).glob("offline-run-*/*.wandb"):
    for record in records(file.read_bytes()):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for key, value in row.items():
                found.setdefault(key, []).append([row["_step"], value])
print(json.dumps(found))
"""
Points = dict[str, list[list[float]]]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return overlay(tmp_path_factory.mktemp("tracking") / "venv", "-r", str(Path(__file__).with_name("tracking.txt")))


class Server:
    """An MLflow server that can be stopped and started again at the same address."""

    def __init__(self, programs: Path, place: Path) -> None:
        self._programs, self._place, self.port = programs, place, free_ports(1)[0]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--backend-store-uri", "sqlite:///m.db", "--artifacts-destination", "artifacts", "--workers", "1"]
        with open(self._place / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "mlflow", "server", *options, "--port", str(self.port)],
                cwd=self._place, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # half of its time to start
            )  # fmt: skip
        wait_for(lambda: b"startup complete" in self._since(), "the MLflow server")

    def _since(self) -> bytes:
        return (self._place / "server.log").read_bytes().rpartition(b"stopped\n")[2]

    def stop(self) -> None:
        if self._process:
            end_group(self._process)  # type: ignore[arg-type]
            self._process.wait()
            with open(self._place / "server.log", "ab") as log:
                log.write(b"stopped\n")


@pytest.fixture
def server(programs: Path, tmp_path: Path) -> Iterator[Server]:
    found = Server(programs, tmp_path)
    found.start()
    yield found
    found.stop()


class Project:
    """A folder with a run, and what the trackers have of it."""

    def __init__(self, place: Path, programs: Path, server: Server) -> None:
        self.place, self._programs = place, programs
        env = clean_environment(place / "home")
        self.env: Mapping[str, str] = {
            **env, "PATH": f"{programs}:{env['PATH']}", "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": server.uri,
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        (place / "slow.py").write_text(TASK)
        (place / "c.yaml").write_text(CONFIG)
        (place / "s.yaml").write_text(SWEEP)

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self._programs / "python", "-m", "heliostat", *args], cwd=self.place, env=dict(self.env), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def __call__(self, *args: str) -> str:
        process = self.start(*args)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return said

    def read(self, program: str, *args: Path) -> Any:
        done = subprocess.run(
            [self._programs / "python", "-c", program, *args],
            cwd=self.place,
            env=dict(self.env),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def logged(self) -> int:
        """The last step that MLflow has."""
        found = self.read(MLFLOW)
        return int(found[0]["metrics"].get("train/loss", [[0]])[-1][0]) if found else 0

    def recorded(self) -> Points:
        """What the run's own record has."""
        found: Points = {}
        for record in read_journal(Folder.at(self.place / "runs/c"), "metrics.jsonl"):
            train = record["kind"] == "train"
            for name, value in (record if train else record["metrics"]).items():
                if name not in ("time", "kind", "step", "epoch"):
                    found.setdefault(f"{'train' if train else 'validation'}/{name}", []).append([record["step"], value])
        return found


@pytest.fixture
def project(tmp_path: Path, programs: Path, server: Server) -> Project:
    place = tmp_path / "project"
    place.mkdir()
    return Project(place, programs, server)


def check(there: Points, recorded: Points) -> None:
    """Each step once, with the value of the record; how fast a step was differs when it is computed again."""
    for name, points in recorded.items():
        assert [step for step, _ in there[name]] == [step for step, _ in points], name
        if name in ("train/loss", "train/lr", "validation/accuracy"):
            assert [value for _, value in there[name]] == pytest.approx([value for _, value in points], rel=1e-5), name


def followers(project: Project) -> list[int]:
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if f"{project.env['PATH'].split(':')[0]}/python -P -m" in line]


def test_three_kills_leave_each_step_once_with_every_tracker(project: Project) -> None:
    for steps in (100, 400, 700):
        process = project.start("train", "c.yaml", "--in-process")
        wait_for(lambda steps=steps: project.logged() > steps, f"{steps} steps in MLflow")  # type: ignore[misc]
        assert process.poll() is None, "it is killed in the middle"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        wait_for(lambda: not followers(project), "the process that tracks to be gone")
    project("train", "c.yaml", "--in-process")
    recorded = project.recorded()
    assert len(recorded["train/loss"]) == 400
    (run,) = project.read(MLFLOW)
    check(run["metrics"], recorded)
    assert (run["name"], run["status"], run["tags"]["state"]) == ("c", "FINISHED", "finished")
    assert run["params"]["optimizer.lr"] == "0.001"
    assert run["files"] == ["config.yaml", "evaluation.json", "report.html", "result.json"]
    check(project.read(TENSORBOARD, project.place / "runs/c/tensorboard"), recorded)
    check(project.read(WANDB, project.place / "runs/c/wandb"), recorded)


def test_a_server_that_goes_away_and_comes_back_delays_only_the_tracking(project: Project, server: Server) -> None:
    """With Ray's workers; at the end the server is away again."""

    def happened(event: str) -> bool:
        return any(record["event"] == event for record in read_journal(Folder.at(project.place / "runs/c"), "tracking.jsonl"))

    process = project.start("train", "c.yaml", "--set", "tracking=[mlflow]", "--set", "steps=6000")
    wait_for(lambda: happened("opened"), "the run in MLflow")
    server.stop()
    wait_for(lambda: happened("delayed"), "the failure to be noticed")
    server.start()
    wait_for(lambda: happened("continued"), "the metrics to be sent")
    assert project.logged() > 0
    assert process.poll() is None, "it still runs"
    server.stop()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert 1 <= said.count("mlflow has not taken the run's metrics") <= 2, "once in an outage"
    command = re.search(r"heliostat (runs track .*) sends what is missing", said)
    assert command, said
    server.start()
    for _ in range(2):
        project(*command[1].split())
    (run,) = project.read(MLFLOW)
    assert len(run["metrics"]["train/loss"]) == 1200
    check(run["metrics"], project.recorded())
    assert run["status"] == "FINISHED"


def test_a_sweep_is_a_run_with_a_child_for_each_trial(project: Project) -> None:
    project("sweep", "s.yaml")
    runs = {run["name"]: run for run in project.read(MLFLOW)}
    assert sorted(runs) == ["s-sweep", "s-sweep/0000", "s-sweep/0001", "s-sweep/0002"]
    parent = runs.pop("s-sweep")
    assert {run["tags"]["mlflow.parentRunId"] for run in runs.values()} == {parent["id"]}
    assert {run["params"]["optimizer.lr"] for run in runs.values()} == {"0.001", "0.01", "0.1"}
    assert all([step for step, _ in run["metrics"]["validation/accuracy"]] == [10, 20, 30, 40] for run in runs.values())
    assert {run["status"] for run in [parent, *runs.values()]} == {"FINISHED"}
    assert {"sweep.yaml", "best.yaml", "report.html"} <= set(parent["files"])
    for trial in ("0000", "0001", "0002"):
        assert project.read(TENSORBOARD, project.place / "runs/s-sweep/tensorboard" / trial)["validation/accuracy"][0][0] == 10
    assert len(list((project.place / "runs/s-sweep/wandb").glob("offline-run-*"))) == 4


def test_a_package_that_is_missing_is_refused_before_anything_starts(project: Project) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "heliostat", "train", "c.yaml"],
        cwd=project.place,
        env=dict(project.env),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "needs the package mlflow-skinny" in done.stderr
    assert not (project.place / "runs").exists()
