"""Trainers of others under ``heliostat torchrun``: their losses on a laptop cluster that loses a node equal those here."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from heliostat.cluster.targets.local.processes import ClusterRecord, processes
from heliostat.folder import Folder
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import METRICS
from tests.accept.conftest import overlay
from tests.conftest import ROOT, clean_environment, end_group, wait_for

SCRIPTS = Path(__file__).parent / "trainers"
STEPS = {"hf": 24, "lit": 24, "fabric": 24, "accelerated": 24, "vision": 20, "timms": 24, "nano": 24, "deep": 24}
"""The scripts, and how many steps each has."""
PROFILE = """
name: trainers
platform: local
groups: [{name: cpu, cpu: 1, memory: 2Gi, max: 2, idle_seconds: 60}]
storage: {uri: STORAGE}
idle_shutdown_seconds: null
"""
PAUSE = "0.5"
"""Seconds of a step on the cluster, so that the node is lost in the middle."""


@dataclass(frozen=True)
class Place:
    """A user's folder with the scripts, and an environment with the frameworks."""

    programs: Path
    work: Path
    env: dict[str, str]
    storage: Path

    def line(self, *args: str) -> list[str]:
        return [str(self.programs / "python"), "-m", "heliostat", *args]

    def run(self, *args: str) -> str:
        done = subprocess.run(self.line(*args), cwd=self.work, env=self.env, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def lose_node(self, script: str, rank: str) -> None:
        """Kills the node of a rank: its raylet, and the script, which a machine that is gone takes with it."""
        record = ClusterRecord(**json.loads(Path(self.env["HOME"], ".heliostat/clusters/trainers/cluster.json").read_text()))
        for process in processes(record):
            with suppress(psutil.Error):
                environ = process.environ() if process.cmdline()[1:3] == ["-u", script] else {}
                if environ.get("RANK") == rank:
                    psutil.Process(int(environ["RAY_RAYLET_PID"])).kill()
                    process.kill()
                    return
        raise AssertionError(f"rank {rank} of {script} does not run")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    programs = overlay(tmp_path_factory.mktemp("trainers") / "venv", "-r", str(Path(__file__).with_name("trainers.txt")))
    work, storage = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("storage")
    for name in STEPS:
        (work / f"{name}.py").write_text((SCRIPTS / f"{name}.py").read_text())
    (work / "profile.yaml").write_text(PROFILE.replace("STORAGE", str(storage)))
    env = dict(clean_environment(tmp_path_factory.mktemp("home")))
    env |= {"PATH": f"{programs}:{env['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = Place(programs, work, env, storage)
    try:
        found.run("up", "profile.yaml")
        yield found
    finally:
        found.run("down", "profile.yaml", "--yes")


def losses(run: Path) -> dict[int, float]:
    """The training loss of each step; each step is recorded once."""
    records = [(r["step"], r["loss"]) for r in read_journal(Folder.at(run), METRICS) if r["kind"] == "train"]
    assert len({step for step, _ in records}) == len(records)
    return dict(records)


@pytest.mark.parametrize("name", STEPS)
def test_a_trainer_loses_a_node_and_has_the_losses_of_an_undisturbed_run(place: Place, name: str) -> None:
    place.run("torchrun", "--workers", "2", "--gpu", "0", f"{name}.py", "0")
    calm = losses(place.work / "runs" / name)
    assert sorted(calm) == list(range(1, STEPS[name] + 1))
    run = place.storage / "runs" / name
    line = place.line(
        "torchrun", "--on", "profile.yaml", "--workers", "2", "--gpu", "0", "--max-restarts", "3", f"{name}.py", PAUSE
    )
    with subprocess.Popen(
        line, cwd=place.work, env=place.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            wait_for(
                lambda: process.poll() is not None or ((run / METRICS).exists() and max(losses(run), default=0) >= 10),
                "10 steps",
                900,
            )
            assert process.poll() is None, process.communicate()[0]
            place.lose_node(f"{name}.py", rank="1")
            out, _ = process.communicate(timeout=1800)
        finally:
            end_group(process)
    assert process.returncode == 0, out
    assert "restart 1 of 3" in out or "the script is restarted" in out, out
    assert losses(run) == pytest.approx(calm, rel=1e-6), out
    (row,) = [row for row in json.loads(place.run("runs", "--storage", str(run.parent), "--json")) if row["name"] == name]
    assert (row["kind"], row["state"], row["step"]) == ("script", "finished", STEPS[name])
    assert 0 < row["goodput"] < 1
    assert row["cost"] is not None
    starts = [event["step"] for event in read_journal(Folder.at(run), "events.jsonl") if event["event"] == "start"]
    assert starts[0] == 0
    assert starts[-1] >= 4, "it resumed from a checkpoint"
