"""A laptop cluster to break, and what is seen of a run on it from its folder."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from heliostat.cluster.targets.local.processes import ClusterRecord, processes
from heliostat.folder import Folder
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS, METRICS
from tests.conftest import Command, clean_environment, end_group, gone, wait_for

PROFILE = """
name: breakable
platform: local
groups:
  - {name: gpu, cpu: 1, memory: 1Gi, gpu: 1, gpu_type: A100-80GB, min: 0, max: 2, idle_seconds: 30}
storage: {uri: STORAGE}
idle_shutdown_seconds: null
"""
CONFIG = """
task: watched:Watched
dataset: {source: digits}
model: {width: 8, stages: 1, dropout: 0.0, seconds: 0.01}
workers: 2
steps: 400
evaluate_every: 200
checkpoint_every: 25
"""


@dataclass(frozen=True)
class Seen:
    """What the folder of a run says, which may be in an object store."""

    place: Folder

    @classmethod
    def at(cls, path: Path | str) -> "Seen":
        return cls(Folder.at(str(path)))

    def journal(self, name: str) -> list[dict[str, Any]]:
        return read_journal(self.place, name)

    @property
    def attempts(self) -> list[dict[str, Any]]:
        return self.journal(ATTEMPTS)

    @property
    def events(self) -> list[dict[str, Any]]:
        return self.journal(EVENTS)

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return max((record["step"] for record in self.journal(METRICS)), default=0)

    @property
    def starts(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "start"]

    @property
    def losses(self) -> dict[int, float]:
        """The loss of each logged step; no step is logged twice."""
        records = [(r["step"], r["loss"]) for r in self.journal(METRICS) if r["kind"] == "train"]
        assert len({step for step, _ in records}) == len(records)
        return dict(records)

    @property
    def measured(self) -> list[Any]:
        return [(r["step"], r["metrics"]) for r in self.journal(METRICS) if r["kind"] == "eval"]

    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.place.read("result.json"))
        return result

    @property
    def weights(self) -> dict[str, Any]:
        """The model of the last checkpoint, by parameter."""
        weights: dict[str, Any] = checkpoint.committed(self.place)[-1].read()["model"]
        return weights

    def trains(self, workers: int, after: int = 0) -> None:
        """Wait until that many workers have logged a step of theirs, in another attempt than the first ``after``."""

        def at_work() -> bool:
            starts = self.starts
            if len(starts) <= after or len(starts[-1]["workers"]) != workers:
                return False
            return any(r["time"] > starts[-1]["time"] for r in self.journal(METRICS))

        wait_for(at_work, f"{workers} workers at work")


def assert_same_weights(run: Seen, other: Seen) -> None:
    """To the last bit."""
    mine, theirs = run.weights, other.weights
    assert mine.keys() == theirs.keys()
    assert len(mine) > 1
    assert [name for name, tensor in mine.items() if not tensor.equal(theirs[name])] == []


def samples_by_step(folder: Path) -> dict[int, list[str]]:
    """The samples that entered each step, in its last attempt, sorted."""
    notes = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    steps: dict[int, list[dict[str, Any]]] = {}
    for note in notes:
        steps.setdefault(note["step"], []).append(note)
    return {step: _last(of_step) for step, of_step in sorted(steps.items())}


def _last(notes: list[dict[str, Any]]) -> list[str]:
    """A step that was lost is computed again, by all ranks: the notes of the last time stand."""
    newest = max(notes, key=lambda note: note["time"])["attempt"]
    return sorted(sample for note in notes if note["attempt"] == newest for sample in note["ids"])


@dataclass
class Breakable:
    """A cluster of real Ray processes on this machine, of a user who has nothing else."""

    command: Command
    storage: Path

    @property
    def run(self) -> ClusterRecord:
        path = Path(self.command.env["HOME"], ".heliostat/clusters/breakable/cluster.json")
        return ClusterRecord(**json.loads(path.read_text()))

    def up(self) -> None:
        done = self.command("up", "profile.yaml")
        assert done.code == 0, done.err

    def train(self, name: str, *settings: str) -> "subprocess.Popen[str]":
        flags = [part for setting in (f"name={name}", *settings) for part in ("--set", setting)]
        return self.command.start("train", "config.yaml", "--on", "profile.yaml", *flags)

    def seen(self, name: str) -> Seen:
        return Seen.at(self.storage / "runs" / name)

    def processes(self, *words: str) -> list[psutil.Process]:
        """Those whose command line has all the words."""
        found = []
        for process in processes(self.run):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if all(word in line for word in words):
                found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        return self.processes("RayTrainWorker")

    def raylet(self, node: str) -> psutil.Process:
        (process,) = self.processes("raylet/raylet", f"--node_id={node}")
        return process

    def driver(self) -> psutil.Process:
        """The command that drives the run, in a job on the head."""
        command = ["-P", "-m", "heliostat", "train"]
        return next(p for p in self.processes(" ".join(command)) if p.cmdline()[1:5] == command)

    @contextmanager
    def without_autoscaler(self) -> Iterator[None]:
        """No node is started meanwhile."""
        (monitor,) = self.processes("autoscaler/v2/monitor.py")
        monitor.suspend()
        try:
            yield
        finally:
            monitor.resume()

    def drain(self, node: str, seconds: int = 600) -> None:
        """What a spot notice does; it gives more time than any does, as the workers do not wait for its end."""
        from heliostat.cluster.ray_token import TOKEN

        token = Path(str(TOKEN).replace("~", self.command.env["HOME"])).read_text()
        # Not `ray drain-node`: that takes 127.0.0.1, where the head listens, for the machine's address.
        deadline = int((time.time() + seconds) * 1000)
        request = f"drain_node({node!r}, DrainNodeReason.Value('DRAIN_NODE_REASON_PREEMPTION'), 'spot', {deadline})"
        code = (
            "from ray._raylet import GcsClient; from ray.core.generated.autoscaler_pb2 import DrainNodeReason; "
            f"assert GcsClient(address='127.0.0.1:{self.run.ports['gcs']}').{request}[0]"
        )
        subprocess.run(
            [sys.executable, "-c", code],
            env={**self.command.env, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
            check=True,
            capture_output=True,
        )


def write_project(folder: Path, config: str = CONFIG) -> None:
    """A user's folder with the task and the script of these tests."""
    for name in ("watched.py", "steps.py"):
        shutil.copy(Path(__file__).with_name(name), folder)
    (folder / "config.yaml").write_text(config)


@pytest.fixture(scope="session")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breakable]:
    """A cluster that can have two GPU nodes, in a folder with ``config.yaml``."""
    work = tmp_path_factory.mktemp("work")
    env = clean_environment(tmp_path_factory.mktemp("home"))
    storage = tmp_path_factory.mktemp("storage")
    (work / "profile.yaml").write_text(PROFILE.replace("STORAGE", str(storage)))
    write_project(work)
    cluster = Breakable(Command(work, env), storage)
    cluster.up()
    try:
        yield cluster
    finally:
        done = cluster.command("down", "profile.yaml", "--yes")
        assert done.code == 0, done.err
        gone(env)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The run of ``CONFIG`` without faults, on plain local workers, with its samples in ``samples``."""
    work = tmp_path_factory.mktemp("undisturbed")
    write_project(work)
    samples = work / "samples"
    command = Command(work, clean_environment(tmp_path_factory.mktemp("home")))
    done = command(
        "train", "config.yaml", "--set", "name=calm", "--set", f"model.samples={samples}", "--set", "model.seconds=0"
    )
    assert done.code == 0, done.err
    gone(command.env)
    return Seen.at(work / "runs" / "calm")


def ended(process: "subprocess.Popen[str]", timeout: float = 600) -> tuple[int, str]:
    """The exit code of a command and what it printed: of a job, its log is the standard output."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        end_group(process)
    return process.returncode, out + err


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, 9)


def head(breakable: Breakable) -> str:
    """The node id of the head."""
    (raylet,) = [p for p in breakable.processes("raylet/raylet") if "node:__internal_head__" in " ".join(p.cmdline())]
    return str(next(a.removeprefix("--node_id=") for a in raylet.cmdline() if a.startswith("--node_id=")))
