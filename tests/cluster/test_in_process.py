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

from heliostat.cluster import in_process
from tests.conftest import ROOT, Head, clean_environment, gone

CODE = """
import contextlib, json, os, subprocess, urllib.error, urllib.request
import psutil
import ray
from heliostat.cluster import in_process
mine = subprocess.Popen(["sleep", "60"])
with in_process.session() as dashboard:
    seen = {"dashboard": dashboard, "cpus": ray.cluster_resources()["CPU"], "machine": in_process.machine()[0]["CPU"]}
    try:
        urllib.request.urlopen(dashboard + "/api/jobs/")
    except urllib.error.HTTPError as error:
        seen["without a token"] = error.code
    classes, listening = {}, set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            sockets = process.net_connections("tcp")
            listening |= {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
    seen["listening"] = sorted(listening)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            words = [os.path.basename(word) for word in process.cmdline()[:3]]
            name = next((word for word in words if word.endswith(".py") or word.startswith("ray")), process.name())
            classes[name] = os.sched_getscheduler(process.pid)
    seen["idle"] = sorted(name for name, kind in classes.items() if kind == os.SCHED_IDLE)
    seen["normal"] = sorted(name for name, kind in classes.items() if kind == os.SCHED_OTHER)
    token = open(os.path.expanduser("~/.heliostat/ray-token")).read()
    request = urllib.request.Request(dashboard + "/api/jobs/", headers={"Authorization": "Bearer " + token})
    seen["with the token"] = urllib.request.urlopen(request).status
seen["after"] = ray.is_initialized()
seen["mine"] = mine.poll()
mine.kill()
print(json.dumps(seen))
"""


def test_a_local_session_has_a_dashboard_behind_a_token_is_closed_to_the_network_and_leaves_nothing(tmp_path: Path) -> None:
    """Ray is imported before the session here; the token mode must still apply."""
    env = clean_environment(tmp_path)
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["without a token"] == 401
    assert seen["with the token"] == 200
    assert seen["cpus"] == seen["machine"]
    assert {"dashboard.py", "log_monitor.py", "monitor.py", "ray-dashboard-JobHead-0"} <= set(seen["idle"])
    assert {"raylet", "gcs_server", "sleep"} <= set(seen["normal"]), "what a worker waits for, and inherits from"
    assert {"agent.py", "ray::DashboardAgent"} & set(seen["idle"])
    assert set(seen["listening"]) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, "other machines cannot connect"
    assert seen["after"] is False
    assert seen["mine"] is None, "what is not Ray's is left alone"
    gone(env)


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
    tmp_path: Path, silent: str, address: str, code: int, words: str
) -> None:
    env = {**clean_environment(tmp_path), "RAY_ADDRESS": address.format(silent=silent)}
    config = str(ROOT / "workloads/configs/breast-cancer.yaml")
    command = [sys.executable, "-m", "heliostat", "train", config]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


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
    in_process._export_token()
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
