"""A cluster on this machine's ports: through heliostat session, and through what is below it, on a real Kubernetes."""

import base64
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from heliostat.cluster.documents.manifests import documents
from heliostat.cluster.errors import Forbidden
from heliostat.cluster.kube.api import Api
from heliostat.cluster.kube.conditions import ready
from heliostat.cluster.kube.port_forward import Forward
from heliostat.cluster.ports import free_ports
from heliostat.cluster.profile import find
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.config import to_yaml
from tests.conftest import Command, end_group, gone, processes_of, wait_for
from tests.kubernetes.conftest import Place, first_document


@dataclass(frozen=True)
class Cluster:
    """A cluster of these tests alone."""

    target: KubernetesCluster
    profile: Path

    @property
    def api(self) -> Api:
        return self.target.api


@pytest.fixture(scope="module")
def cluster(place: Place) -> Cluster:
    path = place.profile("fwd", idle_shutdown_seconds=None)
    profile = find(str(path))
    for document in documents(profile, place.kube.api.features):
        place.kube.objects(document["kind"]).apply(document)
    place.kube.clusters.wait([profile.name], ready, 300)
    return Cluster(KubernetesCluster(profile, place.kube), path)


@dataclass(frozen=True)
class Running:
    """A session that is open: its process and what it printed."""

    process: "subprocess.Popen[str]"
    document: dict[str, Any]

    def end(self) -> str:
        """Ctrl-C; what else it has printed."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, "Ctrl-C is the normal end of a session"
        return out + err


@contextmanager
def session(command: Command, cluster: Cluster, *args: str) -> Iterator[Running]:
    process = command.start("session", cluster.profile, "--json", *args)
    try:
        yield Running(process, json.loads(first_document(process)))
    finally:
        end_group(process)
        process.communicate()


def get(url: str, token: str = "") -> bytes:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    body: bytes = urllib.request.urlopen(request, timeout=300).read()
    return body


def answers(url: str) -> bool:
    try:
        return b"success" in get(f"{url}/api/gcs_healthz")
    except OSError:
        return False


def environment(command: Command) -> dict[str, str]:
    """That of a user with Ray on the PATH, and with a token of another cluster left over."""
    programs = str(Path(sys.executable).parent)
    return {
        **command.env,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "RAY_AUTH_TOKEN": "left over",
        "RAY_ADDRESS": "http://nowhere",
    }


def test_two_sessions_at_once_each_with_a_job_and_a_client(command: Command, cluster: Cluster) -> None:
    payload, env = random.randbytes(20 << 20), environment(command)
    (command.cwd / "payload").write_bytes(payload)
    (command.cwd / "my_script.py").write_text(
        "import hashlib; print('sha', hashlib.sha256(open('payload', 'rb').read()).hexdigest())"
    )
    with session(command, cluster) as first, session(command, cluster) as second:
        assert first.document["dashboard"] != second.document["dashboard"]
        # What the session says is to be pasted is pasted.
        job = subprocess.run(
            ["bash", "-ec", first.document["shell"]], cwd=command.cwd, env=env, capture_output=True, text=True, timeout=600
        )
        assert job.returncode == 0, job.stdout + job.stderr
        assert f"sha {hashlib.sha256(payload).hexdigest()}" in job.stdout, "20 MB arrive unbroken"
        (command.cwd / "payload").unlink()

        program = f"{second.document['python']}\nprint('sum', ray.get(ray.remote(num_cpus=0)(lambda: 40 + 2).remote()))"
        client = subprocess.run(
            [sys.executable, "-c", program], cwd=command.cwd, env=env, capture_output=True, text=True, timeout=600
        )
        assert client.returncode == 0, client.stdout + client.stderr
        assert "sum 42" in client.stdout


def test_the_token_is_in_one_file_that_only_the_user_can_read_and_nothing_is_left(command: Command, cluster: Cluster) -> None:
    token = cluster.target.token
    with session(command, cluster) as running:
        path = Path(running.document["environment"]["RAY_AUTH_TOKEN_PATH"])
        assert path.is_relative_to(command.env["HOME"])
        assert path.read_text() == token
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert os.listdir(path.parent) == [path.name]
        assert b"[" in get(f"{running.document['dashboard']}/api/jobs/", token)
        lines = [word for process in processes_of(command.env) for word in process.cmdline()]
        assert lines
        printed = json.dumps(running.document) + running.end()
        assert token not in printed + " ".join(lines)
        assert not answers(running.document["dashboard"])
    gone(command.env)


def test_a_new_head_is_behind_the_same_port(command: Command, cluster: Cluster) -> None:
    with session(command, cluster) as running, Forward(cluster.api, "fwd", {8265: 0}) as forward:
        url = running.document["dashboard"]
        assert answers(url)
        old = forward.head()
        cluster.api.request("DELETE", cluster.api.path("Pod", str(old)), {})
        wait_for(lambda: forward.head() != old, "the old head to be gone")
        # A connection that comes while there is no head may wait, but never hangs.
        answers(url)
        wait_for(lambda: forward.head() not in (None, old), "the new head")
        wait_for(lambda: answers(url), "an answer through the same port")
        assert get(f"{url}/api/jobs/", cluster.target.token) == b"[]", "the new head knows nothing of before"
        assert running.process.stderr is not None
        output = iter(running.process.stderr.readline, "")
        assert next(line for line in output if "the head of fwd is" in line).endswith("when it is back\n")
        assert next(output).endswith("the head of fwd is back\n")


def test_a_client_that_ends_its_direction_first_gets_the_whole_answer(cluster: Cluster) -> None:
    with (
        Forward(cluster.api, "fwd", {8265: 0}) as forward,
        socket.create_connection(("127.0.0.1", forward.ports[8265])) as sock,
    ):
        sock.sendall(b"GET /api/gcs_healthz HTTP/1.0\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(300)
        assert b"".join(iter(lambda: sock.recv(65536), b"")).endswith(b"success")


def test_a_port_without_a_listener_is_an_error_and_not_an_empty_response(cluster: Cluster) -> None:
    with Forward(cluster.api, "fwd", {9: 0}) as forward, socket.create_connection(("127.0.0.1", forward.ports[9])) as sock:
        sock.settimeout(300)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        wait_for(lambda: "refused" in str(forward.last_error), "the reason")


def test_an_end_in_the_middle_of_connections_leaves_no_thread_and_no_socket(cluster: Cluster) -> None:
    def held() -> tuple[int, int]:
        return threading.active_count(), len(psutil.Process().net_connections())

    assert cluster.target.kube.clusters.list()
    before = held()
    for _ in range(3):
        with Forward(cluster.api, "fwd", {8265: 0, 10001: 0}) as forward:
            waiting = [socket.create_connection(("127.0.0.1", forward.ports[8265])) for _ in range(5)]
            assert answers(f"http://127.0.0.1:{forward.ports[8265]}")
        for sock in waiting:
            sock.close()
    # A thread that has done its work ends a moment later, also one of the tests before.
    wait_for(lambda: held()[0] <= before[0], "the end of the threads")
    # The pool of the API server's connections may have grown by one for each thread that asked at the same time.
    assert held()[1] - before[1] <= 5


def test_a_user_with_nothing_but_a_few_rights_and_a_token(cluster: Cluster, tmp_path: Path) -> None:
    api, where = cluster.api, {"namespace": cluster.api.namespace}
    who = [{"kind": "ServiceAccount", "name": "user", **where}]
    group = "rbac.authorization.k8s.io"
    kube = cluster.target.kube
    kube.objects("ServiceAccount").create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "user"}})
    role = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": "user"}}
    kube.objects("Role").create({**role, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]})
    binding = {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": {"name": "user"}, "subjects": who}
    kube.objects("RoleBinding").create({**binding, "roleRef": {"kind": "Role", "name": "user", "apiGroup": group}})
    token = api.request("POST", f"{api.path('ServiceAccount', 'user')}/token", {"spec": {}})["status"]["token"]
    server = {"server": api.server, "certificate-authority": api.configuration.ssl_ca_cert}
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "user",
        "clusters": [{"name": "user", "cluster": server}], "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "user", "context": {"cluster": "user", "user": "user", **where}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(to_yaml(config))
    user = Api(str(tmp_path / "kubeconfig"))

    wait_for(lambda: user.may("list", "pods"), "the first right")
    with pytest.raises(Forbidden, match="get pods/portforward"):
        Forward(user, "fwd", {8265: 0}).__enter__()
    rights = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    rights += [{"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"]}]
    kube.objects("Role").patch("user", {"rules": rights})
    wait_for(lambda: user.may("get", "pods", subresource="portforward"), "the right")
    with Forward(user, "fwd", {8265: 0}) as forward:
        assert answers(f"http://127.0.0.1:{forward.ports[8265]}")


def test_bad_input_is_reported_at_once(command: Command, cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(cluster.profile.read_text().replace("name: fwd\n", "name: other\n", 1))
    taken = socket.create_server(("127.0.0.1", free_ports(1)[0]))
    port = str(taken.getsockname()[1])
    secret = cluster.target.kube.objects("Secret")
    wrong = base64.b64encode(b"0" * 64).decode()
    right = secret.get("fwd")["data"]["auth_token"]
    with taken:
        absent = command("session", other)
        busy = command("session", cluster.profile, "--port", port)
    secret.patch("fwd", {"data": {"auth_token": wrong}})
    refused = command("session", cluster.profile)
    secret.patch("fwd", {"data": {"auth_token": right}})
    assert absent.code == busy.code == refused.code == 2
    assert "the cluster other does not exist" in absent.err
    assert "heliostat up other" in absent.err
    assert f"local port {port} cannot be used" in busy.err
    assert "rejected the token" in refused.err
    assert "0" * 64 not in refused.out + refused.err


def test_a_suspended_cluster_is_reported_before_and_during_a_session(command: Command, cluster: Cluster) -> None:
    with session(command, cluster) as running:
        cluster.target.kube.clusters.suspend("fwd")
        assert running.process.stderr is not None
        output = iter(running.process.stderr.readline, "")
        assert any("fwd is suspended; fix: heliostat up fwd" in line for line in output)
    done = command("session", cluster.profile)
    assert done.code == 2
    assert done.err == textwrap.dedent("""\
        heliostat: fwd is suspended
          fix: heliostat up fwd
        """)
