"""Variables of the shell reach a job and its workers, and nothing else: no dashboard, no log, no file."""

import hashlib
import json
import os
import shlex
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from heliostat import job_environment
from heliostat.cluster.jobs.contents import contents
from heliostat.cluster.jobs.dashboard import Dashboard, by_port
from heliostat.cluster.jobs.follow import Work, follow, new_job_id, submit
from heliostat.commands.job.sending import variables_to_send
from heliostat.errors import UserError
from heliostat.interrupts import handles_sigterm
from heliostat.job_output import start, wait
from tests.conftest import Command, Head, wait_for

VALUE = "correct-horse-battery-staple"
DIGEST = hashlib.sha256(VALUE.encode()).hexdigest()
JOB = """
import hashlib, os
import ray
from ray.experimental.internal_kv import _internal_kv_list

def digest():
    return hashlib.sha256(os.environ["TOKEN_OF_TEST"].encode()).hexdigest()

ray.init()
print("driver", digest())
print("worker", ray.get(ray.remote(num_cpus=0)(digest).remote()))
print("kept", [key for key in _internal_kv_list("gcs://") if os.environ["HELIOSTAT_JOB_ENVIRONMENT"].encode() in key])
raise SystemExit(7)
"""
STOPPED = """
import os, signal, sys, time
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
print("started", flush=True)
while not heard:
    time.sleep(0.1)
time.sleep(1)
print("heard", len(heard), flush=True)
"""
SHOWN = ("/api/jobs/", "/api/v0/actors?detail=true", "/api/v0/runtime_envs?detail=true", "/api/v0/tasks?detail=true")


@pytest.fixture
def dashboard(ray_head: Head) -> Dashboard:
    return Dashboard(by_port(int(ray_head.jobs.rpartition(":")[2]), ray_head.env["RAY_AUTH_TOKEN"]), "here")


def started(dashboard: Dashboard, folder: Path, code: str) -> Work:
    (folder / "job.py").write_text(code)
    work = Work(new_job_id("test"), ["python", "job.py"], contents(folder), secret_env={"TOKEN_OF_TEST": VALUE})
    submit(dashboard, work)
    return work


def key_of(ray_head: Head, job_id: str) -> str:
    request = urllib.request.Request(f"{ray_head.jobs}/api/jobs/{job_id}")
    request.add_header("Authorization", f"Bearer {ray_head.env['RAY_AUTH_TOKEN']}")
    with urllib.request.urlopen(request) as response:
        return str(json.load(response)["runtime_env"]["env_vars"]["HELIOSTAT_JOB_ENVIRONMENT"])


def contents_of(path: Path) -> bytes:
    """What is in a file; nothing in a socket, and in what Ray has deleted meanwhile."""
    with suppress(FileNotFoundError):
        return path.read_bytes() if path.is_file() else b""
    return b""


def test_a_jobs_command_and_workers_have_its_variables_and_nothing_shows_them(
    dashboard: Dashboard, ray_head: Head, tmp_path: Path
) -> None:
    seen: list[str] = []
    work = started(dashboard, tmp_path, JOB)
    assert VALUE not in repr(work)
    job = follow(dashboard, work.job_id, seen.append)
    assert (job.status, job.exit_code) == ("FAILED", 7), "the exit code is the command's own"
    output = "".join(seen)
    assert f"driver {DIGEST}" in output
    assert f"worker {DIGEST}" in output
    for path in SHOWN:
        assert VALUE not in json.dumps(dashboard.get(path))
    files = (Path(place, name) for place, _, names in os.walk(ray_head.env["RAY_TMPDIR"]) for name in names)
    assert not [path for path in files if VALUE.encode() in contents_of(path)]
    key = key_of(ray_head, work.job_id)
    assert key in output, "while the job runs, for workers that start later"
    assert not dashboard.has_package(f"gcs://_ray_pkg_{key}.zip"), "deleted with the job"


def test_a_job_with_variables_gets_one_sigterm_and_the_time_to_end(dashboard: Dashboard, tmp_path: Path) -> None:
    work = started(dashboard, tmp_path, STOPPED)
    wait_for(lambda: "started" in dashboard.logs(work.job_id), "the job to run")
    dashboard.stop(work.job_id)
    wait_for(lambda: dashboard.job(work.job_id).done, "the job to end")
    assert "heard 1" in dashboard.logs(work.job_id)


@pytest.fixture
def own_sigterm() -> Iterator[None]:
    """The handler of this process, which `start` replaces."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_stop_reaches_a_command_that_ray_did_not_see_and_no_other_one_twice(own_sigterm: None, tmp_path: Path) -> None:
    new = start("sleep 1000")
    os.kill(os.getpid(), signal.SIGTERM)
    assert wait(new) == 128 + signal.SIGTERM
    heard = tmp_path / "heard"
    seen = start(f"trap 'echo once >> {heard}' TERM; while :; do sleep 0.05; done")
    try:
        wait_for(lambda: handles_sigterm(seen.pid), "its handler")
        os.kill(os.getpid(), signal.SIGTERM)
        seen.terminate()  # as Ray does
        wait_for(heard.exists, "what it heard")
    finally:
        seen.kill()
        seen.wait()
    assert heard.read_text() == "once\n"


@pytest.mark.parametrize(
    "words", [("train", "digits"), ("sweep", "breast-cancer"), ("torchrun",), ("submit",)], ids=lambda words: words[0]
)
def test_variables_that_cannot_be_passed_are_all_named_without_their_values(command: Command, words: tuple[str, ...]) -> None:
    at = ["local"] if words[0] == "submit" else ["--on", "local"]
    names = ("NOT_SET_HERE", f"PASSWORD={VALUE}", "RAY_ADDRESS", "A-B", "EMPTY")
    options = [word for name in names for word in ("--env", name)]
    (command.cwd / "train.py").write_text("")
    rest = {"torchrun": ["train.py"], "submit": ["--", "true"]}.get(words[0], [])
    with_empty = Command(command.cwd, {**command.env, "EMPTY": ""})
    done = with_empty(*words, *at, *options, *rest)
    assert done.code == 2
    for part in (
        "NOT_SET_HERE is not set",
        "PASSWORD has a value",
        "RAY_ADDRESS belongs to",
        "A-B is not the name",
        "EMPTY is empty",
    ):
        assert f"--env {part}" in done.err
    assert VALUE not in done.out + done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "code"),
    [(["N=7", "sh", "-c", "exit $N"], 7), (["sh", "-c", 'test "$A" = x'], 0), (["no-such-command"], 127)],
)
def test_the_shell_interprets_the_command_as_without_variables(
    words: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Mock()
    client.internal_kv_get.return_value = job_environment.packed({"A": "x"})
    monkeypatch.setattr("ray._raylet.GcsClient", lambda address: client)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("RAY_ADDRESS", "here")
    monkeypatch.setenv("HELIOSTAT_JOB_ENVIRONMENT", "key")
    work = Work("job", words, contents(tmp_path), secret_env={"A": "x"})
    assert job_environment.run(shlex.split(work.entrypoint)[-1]) == code


def test_a_value_that_is_not_utf_8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT_UTF_8", os.fsdecode(b"caf\xe9"))
    with pytest.raises(UserError, match="--env NOT_UTF_8 is not UTF-8"):
        variables_to_send(["NOT_UTF_8"])


def test_variables_need_a_cluster(command: Command) -> None:
    done = command("train", "digits", "--env", "HOME")
    assert done.code == 2
    assert "--env needs a cluster; here, a run has all variables of your shell" in done.err
