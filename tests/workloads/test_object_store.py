"""Runs and sweeps whose storage is an object store: a real S3 protocol, served by a process on this machine."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliostat.environment import CACHE
from heliostat.folder import Folder
from tests.conftest import ROOT, Command, end_group, free_port, gone, wait_for

pytestmark = pytest.mark.accept
KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_EC2_METADATA_DISABLED": "true"}
TRAIN = ("train", "workloads/configs/digits.yaml", "--set", "epochs=8", "--set", "checkpoint_every=10", "--json")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Where an S3 server with an empty bucket is."""
    port = free_port()
    server = subprocess.Popen(
        [str(Path(sys.prefix) / "store/bin/moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/bucket", "PUT"), "the server of the object store")
        yield f"127.0.0.1:{port}"
    finally:
        end_group(server)


def answers(url: str, method: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method)):
            return True
    except OSError:
        return False


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
