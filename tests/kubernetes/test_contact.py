"""Contact to the API server that is lost for a while or for good, and credentials that are not valid any more."""

import base64
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from heliostat.cluster.names import TOKEN_KEY
from heliostat.cluster.profile import find
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from tests.cluster.jobs.test_jobs import Line
from tests.conftest import wait_for
from tests.kubernetes.conftest import IMAGE, Place, kubeconfig

LINES = 40
COUNT = f"""
import os, sys, time
for n in range({LINES}):
    print("line", n, flush=True)
    while n == 10 and not os.path.exists(sys.argv[1]):
        time.sleep(0.1)
"""
"""Prints a part of its lines, and the others after `go_on`, when the connection is as a test wants it."""


def job(name: str) -> tuple[str, ...]:
    return "--", "python", "count.py", f"/tmp/{name}"


def go_on(place: Place, path: Path, name: str) -> None:
    KubernetesCluster(find(str(path)), place.kube).dashboard().submit(name, f"touch /tmp/{name}", {}, {})


@pytest.fixture(scope="module")
def path(place: Place) -> Iterator[Path]:
    """A standing cluster of one small head, and a job for it."""
    (place.command.cwd / "count.py").write_text(COUNT)
    path = place.profile("lost", groups=[{"name": "cpu", "cpu": "100m", "memory": "1Gi", "max": 1}])
    done = place.command("up", path)
    assert done.code == 0, done.err
    yield path
    assert place.command("down", path, "--yes", "--no-wait").code == 0


@pytest.fixture
def line(place: Place) -> Iterator[Line]:
    """A line to the API server, which can be cut."""
    server = urlsplit(place.kube.api.server)
    line = Line(server.port or 443, str(server.hostname))
    yield line
    line.close()


@pytest.fixture
def far(place: Place, line: Line) -> Place:
    """The same place, at the other end of the line."""
    api = place.kube.api
    settings = api.configuration
    server = {
        "server": f"https://127.0.0.1:{line.port}",
        "tls-server-name": str(urlsplit(api.server).hostname),
        "certificate-authority": str(settings.ssl_ca_cert),
    }
    user = {"client-certificate": str(settings.cert_file), "client-key": str(settings.key_file)}
    if not settings.cert_file:
        user = {"token": api.headers()["authorization"].removeprefix("Bearer ")}
    return place.by(kubeconfig(place.command.cwd.parent / "far.kubeconfig", server, user, place.namespace))


def until(process: "subprocess.Popen[str]", word: str) -> str:
    """What a process prints up to a word."""
    assert process.stdout
    text = ""
    while word not in text:
        line = process.stdout.readline()
        assert line, f"it ended before {word!r}: {process.stderr.read() if process.stderr else ''}"
        text += line
    return text


def rest(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """What else it prints; `communicate` would lose what its reader has taken from the pipe already."""
    assert process.stdout
    assert process.stderr
    out, err = process.stdout.read(), process.stderr.read()
    process.wait(300)
    return out, err


def assert_whole(text: str) -> None:
    assert [line for line in text.splitlines() if line.startswith("line")] == [f"line {n}" for n in range(LINES)]


def test_an_api_server_that_is_stopped_for_a_while_costs_no_line_of_the_output(
    place: Place, far: Place, line: Line, path: Path
) -> None:
    process = far.command.start("submit", path, *job("stopped"))
    text = until(process, "line 5\n")
    with line.held():  # the tests that run beside these use the same server
        go_on(place, path, "stopped")
        time.sleep(12)
    out, err = rest(process)
    assert process.returncode == 0, err
    assert_whole(text + out)


def test_a_connection_lost_for_a_while_is_reported_and_continued(place: Place, far: Place, line: Line, path: Path) -> None:
    process = far.command.start("submit", path, *job("cut"))
    text = until(process, "line 5\n")
    line.cut()
    assert any("contact lost for" in text for text in process.stderr or ())
    go_on(place, path, "cut")
    line.restore()
    out, err = rest(process)
    assert process.returncode == 0, err
    assert_whole(text + out)


def test_contact_lost_for_good_is_exit_75_with_the_command_that_follows_the_job_again(
    place: Place, far: Place, line: Line, path: Path
) -> None:
    process = far.command.start("submit", path, *job("lost"))
    until(process, "line 5\n")
    line.cut()
    err = rest(process)[1]
    assert process.returncode == 75, err
    assert "which may still run" in err
    again = err.partition("follow it again: heliostat ")[2].strip().splitlines()[0]
    line.restore()
    go_on(place, path, "lost")
    done = far.command(*again.split())
    assert done.code == 0, done.err
    assert_whole(done.out)


def test_a_connection_lost_while_a_cluster_starts_is_waited_for(far: Place, line: Line) -> None:
    path = far.profile("late", groups=[{"name": "cpu", "cpu": "100m", "memory": "1Gi", "max": 1}])
    process = far.command.start("up", path)
    assert process.stderr
    assert any("waits for the head: " in text for text in process.stderr)
    line.cut()
    time.sleep(8)
    line.restore()
    out, err = rest(process)
    assert process.returncode == 0, err
    assert "late is ready" in out
    assert far.command("down", path, "--yes", "--no-wait").code == 0


@pytest.mark.accept  # that of a standing cluster's job is in make test
def test_the_result_of_an_ephemeral_job_after_lost_contact_comes_from_its_rayjob(place: Place, far: Place, line: Line) -> None:
    """Its cluster goes while the line is cut; the operator knows how the job ended."""
    path = far.profile("unseen", groups=[{"name": "cpu", "cpu": "100m", "memory": "1Gi", "max": 1}])
    for code, output in ((0, ""), (3, "failed")):
        script = f"import time; print('begins', flush=True); time.sleep(20); raise SystemExit({code})"
        process = far.command.start("submit", path, "--ephemeral", "--", "python", "-c", script)
        until(process, "begins\n")
        wait_for(lambda: statuses(place) == ["RUNNING"], "the operator to know the job")
        line.cut()
        # Until the operator has seen the end: then the cluster may go, and with it all that the dashboard knows.
        wait_for(lambda: statuses(place) in (["SUCCEEDED"], ["FAILED"]), "the job to end")
        name = place.kube.jobs.list()[0]["status"]["rayClusterName"]
        place.kube.clusters.delete(name, timeout=300)
        line.restore()
        err = rest(process)[1]
        assert process.returncode == (1 if code else 0), err
        assert output in err
        wait_for(lambda: place.kube.jobs.list() == [], "the RayJob to be deleted")


def statuses(place: Place) -> list[str]:
    return [job.get("status", {}).get("jobStatus", "") for job in place.kube.jobs.list()]


def expired_certificate(place: Place, folder: Path) -> dict[str, str]:
    """A client certificate of yesterday, of the cluster's own authority where its key is at hand."""
    authority = Path(str(place.kube.api.configuration.ssl_ca_cert))
    key = authority.with_suffix(".key")
    if not key.exists():
        authority, key = folder / "ca.crt", folder / "ca.key"
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", authority, "-subj", "/CN=other")
    request, certificate = folder / "user.csr", folder / "user.crt"
    subject = "/O=system:masters/CN=admin"
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "user.key", "-out", request, "-subj", subject)
    openssl("x509", "-req", "-in", request, "-CA", authority, "-CAkey", key, "-days", "-1", "-out", certificate)
    return {"client-certificate": str(certificate), "client-key": str(folder / "user.key")}


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def expired_token(place: Place, folder: Path) -> dict[str, str]:
    """A token of a service account whose hour is over; the API server looks no further."""
    end = int((datetime.now(UTC) - timedelta(hours=1)).timestamp())
    parts: tuple[dict[str, Any], ...] = (
        {"alg": "RS256"},
        {"exp": end, "sub": f"system:serviceaccount:{place.namespace}:default"},
        {},
    )
    coded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return {"token": ".".join(coded)}


@pytest.mark.parametrize(
    ("credentials", "what"),
    [(expired_certificate, "client certificate"), (expired_token, "token")],
    ids=["certificate", "token"],
)
@pytest.mark.parametrize("command", [("status",), ("up",), ("submit", "--", "true"), ("doctor",)], ids=lambda words: words[0])
def test_expired_credentials_are_named(
    place: Place,
    path: Path,
    tmp_path: Path,
    credentials: Callable[[Place, Path], dict[str, str]],
    what: str,
    command: tuple[str, ...],
) -> None:
    server = {"server": place.kube.api.server, "certificate-authority": str(place.kube.api.configuration.ssl_ca_cert)}
    user = credentials(place, tmp_path)
    config = kubeconfig(tmp_path / "expired.kubeconfig", server, user, place.namespace)
    done = place.by(config).command(command[0], path, *command[1:])
    assert done.code == 2, done.err
    assert f"the {what} in the kubeconfig expired at 20" in done.err
    assert "fix: log in again" in done.err
    assert user.get("token", "none") not in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (
            base64.b64encode(b"0" * 64).decode(),
            ("rejected the token", "is not that of the pods of lost: heliostat down lost, then up"),
        ),
        (None, ("/lost has no auth_token", "fix: create that Secret with another name")),
    ],
    ids=["wrong", "missing"],
)
def test_a_secret_without_the_token_of_the_cluster_is_reported_before_anything_is_sent(
    place: Place, path: Path, token: str | None, words: tuple[str, ...]
) -> None:
    secrets = place.kube.objects("Secret")
    right = secrets.get("lost")["data"]
    secrets.patch("lost", {"data": {TOKEN_KEY: token}})
    try:
        done = place.command("submit", path, *job("never"))
    finally:
        secrets.patch("lost", {"data": right})
    assert done.code == 2
    assert done.err.count("fix:") == 1
    assert [word for word in words if word not in done.err] == []
    assert "0" * 64 not in done.err


def test_a_client_with_an_untested_ray_is_refused_before_anything_is_sent(place: Place, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "ray-2.59.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.59.0\n")
    env = {**place.command.env, "PYTHONPATH": f"{tmp_path}:{place.command.env['PYTHONPATH']}"}
    done = replace(place.command, env=env)("submit", path, *job("never"))
    assert done.code == 2
    assert "Ray 2.59.0 is installed, but Heliostat uses private parts of Ray and is tested with 2.60.0 only" in done.err
    assert 'fix: pip install "ray[default,train,tune,client]==2.60.0"' in done.err


def test_a_profile_with_another_ray_than_the_cluster_is_refused_before_anything_is_sent(place: Place, path: Path) -> None:
    image = IMAGE.partition(":")[0] + ":test"
    done = place.command("submit", path, "--set", f"image={image}", "--set", "ray_version=2.59.0", *job("never"))
    assert done.code == 1
    assert "has Ray 2.60.0, but ray_version is 2.59.0" in done.err


def test_ctrl_c_while_contact_is_lost_does_not_wait(far: Place, line: Line, path: Path) -> None:
    process = far.command.start("submit", path, *job("left"))
    until(process, "line 5\n")
    line.cut()
    assert process.stderr
    assert any("contact lost for" in text for text in process.stderr)
    process.send_signal(signal.SIGINT)
    err = rest(process)[1]
    assert process.returncode == 75, err
