import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager

from heliostat.cli import main
from heliostat.cluster import in_process, ray_token
from tests.conftest import ROOT, Head, clean_environment, gone

CODE = """
import contextlib, json, os, signal, subprocess, urllib.error, urllib.request
import psutil
import ray
from heliostat.cli import main
from heliostat.cluster import in_process

def look():
    children = psutil.Process().children(recursive=True)
    classes, listening = {}, set()
    for process in [psutil.Process(), *children]:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            sockets = process.net_connections("tcp")
            listening |= {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
    for process in children:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            words = [os.path.basename(word) for word in process.cmdline()[:3]]
            name = next((word for word in words if word.endswith(".py") or word.startswith("ray")), process.name())
            classes[name] = os.sched_getscheduler(process.pid)
    return {
        "idle": sorted(name for name, kind in classes.items() if kind == os.SCHED_IDLE),
        "normal": sorted(name for name, kind in classes.items() if kind == os.SCHED_OTHER),
        "listening": sorted(listening),
    }

mine = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
seen = {}
before = set(os.environ.items())
try:
    with in_process.session() as dashboard:
        seen["plain"] = {**look(), "dashboard": dashboard}
        seen["cpus"], seen["machine"] = ray.cluster_resources()["CPU"], in_process.machine()[0]["CPU"]
    seen["after"], seen["left"] = ray.is_initialized(), sorted(set(os.environ.items()) - before)
    with contextlib.suppress(KeyboardInterrupt), in_process.session(dashboard=True) as dashboard:
        seen["with"] = look()
        try:
            urllib.request.urlopen(dashboard + "/api/jobs/")
        except urllib.error.HTTPError as error:
            seen["without a token"] = error.code
        token = open(os.path.expanduser("~/.heliostat/ray-token")).read()
        request = urllib.request.Request(dashboard + "/api/jobs/", headers={"Authorization": "Bearer " + token})
        seen["with the token"] = urllib.request.urlopen(request).status
        raise KeyboardInterrupt
    try:
        ray.put(1)  # as by a thread that has not ended yet
    except Exception as error:
        seen["late"] = str(error)
    seen["mine"] = mine.poll()
finally:
    mine.kill()
print(json.dumps(seen), flush=True)
with in_process.starting():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_local_session_has_few_processes_or_a_dashboard_behind_a_token_is_closed_to_the_network_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    """Ray is imported before the session here; the token mode must still apply."""
    env = clean_environment(tmp_path)
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    seen = json.loads(done.stdout)
    plain, with_dashboard = seen["plain"], seen["with"]
    assert plain["dashboard"] == ""
    assert not plain["idle"], "no process that no worker waits for"
    assert {"raylet", "gcs_server", "sleep"} <= set(plain["normal"]), "what a worker waits for, and inherits from"
    assert seen["cpus"] == seen["machine"]
    assert seen["after"] is False
    assert seen["left"] == [], "a notebook may start or join another Ray afterwards"
    assert seen["without a token"] == 401
    assert seen["with the token"] == 200
    assert {"dashboard.py", "ray-dashboard-JobHead-0"} <= set(with_dashboard["idle"])
    assert {"agent.py", "ray::DashboardAgent"} & set(with_dashboard["idle"])
    for each in (plain, with_dashboard):
        assert set(each["listening"]) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, "other machines cannot connect"
    assert "Ray has not been started yet" in seen["late"], "after an interruption, nothing starts another Ray or joins this one"
    assert seen["mine"] is None, "what is not Ray's is left alone"
    gone(env)  # also after a kill -9 while Ray starts


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never says a word, as a head does that is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("http://127.0.0.1:8265", 2, "which is for jobs"),
        ("nonsense", 2, "RAY_ADDRESS is nonsense, which cannot be used"),
        ("127.0.0.1:99999", 2, "RAY_ADDRESS is 127.0.0.1:99999, which cannot be used"),
        ("127.0.0.1:1", 75, "no Ray answers at 127.0.0.1:1"),
        ("ray://127.0.0.1:1", 75, "no Ray answers at ray://127.0.0.1:1"),
        ("{silent}", 75, "it accepts connections, but does not respond"),
    ],
)
def test_a_ray_address_that_is_wrong_or_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], silent: str,
    address: str, code: int, words: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("RAY_ADDRESS", address.format(silent=silent))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(in_process, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(sys, "path", [*sys.path])  # which a command changes
    monkeypatch.chdir(tmp_path)
    assert main(["train", "breast-cancer"]) == code
    said = capfd.readouterr().err
    assert words in said
    assert "fix:" in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_gpus_that_are_hidden_from_this_process_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NvidiaGPUAcceleratorManager, "get_current_node_num_accelerators", lambda: 4)
    seen = {}
    for visible in ("0,2", "", "-1", "0,-1,1", "1,,2", "0,4,1", "3,3", "GPU-1a,GPU-2b", "NoDevFiles", "none", " 1, 2"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        count = in_process.machine()[0]["GPU"]
        in_process._export_visible_gpus()
        assert len(NvidiaGPUAcceleratorManager.get_current_process_visible_accelerator_ids() or []) == count, "as Ray counts"
        seen[visible] = count
    assert list(seen.values()) == [2, 0, 0, 1, 1, 1, 1, 2, 0, 0, 2]


def test_the_head_of_the_tests_wants_a_token(ray_head: Head) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{ray_head.jobs}/api/jobs/")


def test_a_home_that_cannot_be_written_needs_no_token_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "restored afterwards")
        monkeypatch.delenv(name)
    ray_token.export_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


def test_the_folders_of_commands_that_failed_a_day_ago_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of running commands are locked, however old they are."""
    monkeypatch.setattr(in_process, "SCRATCH", tmp_path / "heliostat-ray-")
    folders = {name: tmp_path / f"heliostat-ray-{name}" for name in ("running", "old", "new")}
    locks = {}
    for name, folder in folders.items():
        folder.mkdir()
        locks[name] = in_process._locked(folder)
        if name != "new":
            os.utime(folder / in_process.LOCK, (1, 1))
        if name != "running":
            locks[name].close()
    in_process._remove_abandoned()
    assert sorted(tmp_path.iterdir()) == [folders["new"], folders["running"]]
    locks["running"].close()
