"""Sessions: the dashboard and Ray Client of a cluster on local ports, and the commands to use them."""

import json
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from heliostat.cluster.errors import KubernetesError, Unreachable
from heliostat.cluster.jobs.dashboard import Dashboard, by_port
from heliostat.cluster.kube.api import Api
from heliostat.cluster.kube.port_forward import Forward
from heliostat.cluster.names import PORTS
from heliostat.cluster.ray_version import differing
from heliostat.cluster.targets.kubernetes import UP_SECONDS, KubernetesCluster
from heliostat.errors import UserError
from heliostat.home import own_folder

ANSWER_SECONDS = 30.0
"""Timeout of the first response of the dashboard of a ready head."""
POLL = 1.0


@dataclass(frozen=True)
class Session:
    """The local addresses of a cluster, and the environment that Ray needs for them."""

    cluster: str
    dashboard: str
    client: str
    environment: Mapping[str, str]

    @property
    def shell(self) -> str:
        """Shell commands for ``ray job submit`` and Ray's other commands."""
        # Existing variables would win: RAY_API_SERVER_ADDRESS over --address, RAY_AUTH_TOKEN over a path.
        variables = {"RAY_API_SERVER_ADDRESS": self.dashboard, **self.environment}
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
        return f"unset RAY_AUTH_TOKEN; export {exports}\nray job submit --working-dir . -- python my_script.py"

    @property
    def python(self) -> str:
        """Python code that connects a notebook or a script by Ray Client."""
        return "\n".join((
            "import os",
            'os.environ.pop("RAY_AUTH_TOKEN", None)',
            *(f'os.environ["{name}"] = {json.dumps(value)}' for name, value in self.environment.items()),
            "import ray  # after that, because it reads them on import",
            f'ray.init("{self.client}", runtime_env={{"working_dir": "."}})',
        ))  # fmt: skip

    @property
    def document(self) -> dict[str, Any]:
        """All fields, for programs."""
        return {**asdict(self), "shell": self.shell, "python": self.python}


@contextmanager
def opened(
    cluster: KubernetesCluster, say: Callable[[str], Any], port: int = 0, client_port: int = 0,
    allowed: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Session, Forward, list[str]]]:  # fmt: skip
    """Forward the dashboard and Ray Client of a cluster; yields the session, the port-forward, and versions that differ.

    Args:
        cluster: the cluster.
        say: called with status lines.
        port: the local port of the dashboard, 0 for any that is free.
        client_port: that of Ray Client.
        allowed: called when the cluster answers; raises if no work may start there.

    Raises:
        UserError: the cluster does not exist, is suspended or rejects its token, or a local port is in use.
        NotComing: its head cannot start.
    """
    check_awake(cluster)
    with Forward(cluster.api, cluster.name, {PORTS["dashboard"]: port, PORTS["client"]: client_port}) as forward:
        for line in cluster.wait(lambda _: forward.head() is not None, UP_SECONDS):
            say(line)
        path = write_token(cluster.api, cluster.name, cluster.token)
        url = f"http://127.0.0.1:{forward.ports[PORTS['dashboard']]}"
        # With a wrong token Ray Client waits for half a minute (Ray 2.60); the dashboard reports it at once.
        dashboard = Dashboard(by_port(forward.ports[PORTS["dashboard"]], cluster.token), cluster.name)
        for error in dashboard.retry(ANSWER_SECONDS):
            say(error.what if error else "")
        dashboard.jobs()
        allowed()
        client = f"ray://127.0.0.1:{forward.ports[PORTS['client']]}"
        environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
        yield (
            Session(cluster.name, url, client, environment),
            forward,
            differing(dashboard.version(), dashboard.python_version()),
        )


def check_awake(cluster: KubernetesCluster) -> None:
    """Raise `UserError` if the cluster does not exist or is suspended."""
    live = cluster.kube.clusters.find(cluster.name)
    if live is None:
        raise UserError(
            f"the cluster {cluster.name} does not exist in namespace {cluster.api.namespace}", f"heliostat up {cluster.name}"
        )
    if live["spec"].get("suspend") and cluster.profile.queue:
        raise UserError(
            f"{cluster.name} waits in the queue {cluster.profile.queue}", f"heliostat up {cluster.name} waits until it is ready"
        )
    if live["spec"].get("suspend"):
        raise UserError(f"{cluster.name} is suspended", f"heliostat up {cluster.name}")


def watch(cluster: KubernetesCluster, forward: Forward, stopped: Callable[[], bool]) -> Iterator[str]:
    """Monitor the head during a session; yields a line when its state changes."""
    said, head = "", forward.head()
    while not stopped():
        now, found = _condition(cluster, forward)
        if found and found != head:
            # A cluster that was deleted and created again has another token.
            write_token(cluster.api, cluster.name, KubernetesCluster(cluster.profile, cluster.kube, cluster.name).token)
            head = found
        if now != said:
            yield now or f"the head of {cluster.name} is back"
            said = now
        time.sleep(POLL)


def write_token(api: Api, cluster: str, token: str) -> Path:
    """Write a token atomically to a file that only the user can read; returns its path."""
    folder = own_folder("tokens")
    folder.chmod(0o700)
    # A separator that does not occur in quoted parts.
    path = folder / "+".join(quote(part, safe="") for part in (api.context, api.namespace, cluster))
    handle, scratch = tempfile.mkstemp(dir=folder)  # with mode 0600
    with os.fdopen(handle, "w") as file:
        file.write(token)
    os.replace(scratch, path)
    return path


def _condition(cluster: KubernetesCluster, forward: Forward) -> tuple[str, str | None]:
    """The problem of the head, empty if it is ready, and its name."""
    try:
        if head := forward.head():
            return "", head
        check_awake(cluster)
    except Unreachable:
        return f"the API server {cluster.api.server} does not respond; retrying", None
    except (UserError, KubernetesError) as error:
        return f"{error.what}; fix: {error.fix}", None
    return f"the head of {cluster.name} is down; the same ports work again when it is back", None
