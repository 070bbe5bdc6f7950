"""Runs and sweeps whose storage is an object store: a real S3 protocol, served by a process on this machine."""

import json
import os
import signal
from pathlib import Path

import pytest

from heliostat.environment import CACHE
from heliostat.folder import Folder
from tests.conftest import ROOT, Command, end_group, gone, wait_for
from tests.outage import KEYS, Proxy

pytestmark = pytest.mark.accept
TRAIN = ("train", "workloads/configs/digits.yaml", "--set", "epochs=8", "--set", "checkpoint_every=10", "--json")


@pytest.fixture
def stored(command: Command, endpoint: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> tuple[Command, str]:
    """A command with the rights to the store, and the storage's URI; this process has the rights, too."""
    env = {**KEYS, CACHE: str(cache)}
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    return Command(ROOT, {**command.env, **env}), f"s3://bucket/runs?endpoint_override={endpoint}&scheme=http&region=x"


def test_a_killed_run_resumes_from_the_store_with_the_same_result(
    stored: tuple[Command, str], cache: Path, tmp_path: Path
) -> None:
    command, uri = stored
    calm = command(*TRAIN, "--set", "name=calm", "--set", f"storage={tmp_path}")
    assert calm.code == 0, calm.err
    train = (*TRAIN, "--set", f"storage={uri}", "--set", "name=killed")
    first = command.start(*train)
    folder = Folder.at(uri) / "killed" / "checkpoints"
    try:
        wait_for(lambda: bool(folder.names()), "a checkpoint in the store")
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    finally:
        end_group(first)
    done = command(*train)
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"] == json.loads(calm.out)["metrics"]
    measured = command("evaluate", "killed", "--storage", uri, "--json")
    # By one process instead of two: the sums come in another order.
    assert json.loads(measured.out)["metrics"] == pytest.approx(json.loads(done.out)["metrics"]["test"], rel=1e-5)
    assert "finished" in command("runs", "--storage", uri).out
    kept = [path for path in cache.iterdir() if not path.suffix]
    assert len(kept) == 3, "each of the three splits was fetched once for all workers and commands"
    gone(command.env)


def test_the_best_trial_of_a_sweep_in_the_store_is_trained_by_the_command_that_it_prints(
    stored: tuple[Command, str],
) -> None:
    command, uri = stored
    done = command("sweep", "tuning/configs/breast-cancer.yaml", "--set", "trials=3", "--set", f"storage={uri}", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    shown = command("sweep", "show", "breast-cancer-sweep", "--storage", uri, "--json")
    assert len(json.loads(shown.out)["trials"]) == 3
    again = command("train", result["best_config"], "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["metrics"]["validation"]["loss"] == pytest.approx(result["values"]["loss"])
    gone(command.env)


def test_a_config_that_is_not_in_the_store_is_named(stored: tuple[Command, str]) -> None:
    command, uri = stored
    done = command("train", uri)
    assert done.code == 2
    assert f"config file {uri} does not exist" in done.err


def test_a_run_and_a_sweep_survive_a_store_that_stops_in_every_phase(
    stored: tuple[Command, str], proxy: Proxy, tmp_path: Path
) -> None:
    """It stops for three seconds in each: before the start, at the workers' start, at a checkpoint, at the end."""
    command, _ = stored
    calm = command(*TRAIN, "--set", "name=calm", "--set", f"storage={tmp_path}")
    phases = ["index.json", "lease-", "config.yaml", "attempts.jsonl", "events", "state.pt", "manifest.json", "report.html"]
    phases += ["sweep.yaml", "journal/", "trials/0001/", "best.yaml", "trials.parquet"]
    left = [*phases]

    def stop(line: str) -> None:
        if found := next((phase for phase in left if phase in line), None):
            left.remove(found)
            proxy.away(3)

    proxy.on_request = stop
    done = command(*TRAIN, "--set", f"storage={proxy.uri('outage')}", "--set", "name=stormy")
    assert done.code == 0, done.err
    assert "waiting for storage, for up to 900 s" in done.err
    assert "Traceback" not in done.err
    assert json.loads(done.out)["metrics"] == json.loads(calm.out)["metrics"]
    sweep = (
        "sweep",
        "tuning/configs/breast-cancer.yaml",
        "--set",
        "trials=3",
        "--set",
        f"storage={proxy.uri('outage')}",
        "--json",
    )
    done = command(*sweep)
    assert done.code == 0, done.err
    assert json.loads(done.out)["states"].get("failed", 0) == 0
    assert left == []
    gone(command.env)
