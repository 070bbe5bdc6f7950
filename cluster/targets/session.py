"""A cluster's dashboard and Ray Client on this machine: where they are, what to paste, and how the head is."""

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
from heliostat.cluster.targets.kubernetes import UP_SECONDS, KubernetesCluster
from heliostat.errors import UserError

TOKENS = Path("~/.heliostat/tokens")
ANSWER_SECONDS = 30.0
"""How long the dashboard of a head that is ready may take to answer."""
POLL = 1.0


@dataclass(frozen=True)
class Session:
    """Where a cluster can be reached from this machine, and the environment that Ray needs for it."""

    cluster: str
    dashboard: str
    client: str
    environment: Mapping[str, str]

    @property
    def shell(self) -> str:
        """What to paste into a shell, for ``ray job submit`` and Ray's other commands."""
        # What the shell may hold already would win: RAY_API_SERVER_ADDRESS over --address, RAY_AUTH_TOKEN over a path.
        variables = {"RAY_API_SERVER_ADDRESS": self.dashboard, **self.environment}
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
        return f"unset RAY_AUTH_TOKEN; export {exports}\nray job submit --working-dir . -- python my_script.py"

    @property
    def python(self) -> str:
        """What to paste into a notebook or a script, for Ray Client."""
        return "\n".join((
            "import os",
            'os.environ.pop("RAY_AUTH_TOKEN", None)',
            *(f'os.environ["{name}"] = {json.dumps(value)}' for name, value in self.environment.items()),
            "import ray  # after that, because it reads them only once",
            f'ray.init("{self.client}", runtime_env={{"working_dir": "."}})',
        ))  # fmt: skip

    @property
    def document(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {**asdict(self), "shell": self.shell, "python": self.python}


@contextmanager
def opened(
    remote: KubernetesCluster, say: Callable[[str], Any], port: int = 0, client_port: int = 0
) -> Iterator[tuple[Session, Forward, str]]:
    """Bring a cluster's dashboard and Ray Client to this machine: where they are, what keeps them there, Ray's version.

    Args:
        remote: the cluster.
        say: told in a line what is waited for.
        port: the local port of the dashboard, 0 for any that is free.
        client_port: that of Ray Client.

    Raises:
        UserError: there is no such cluster, it is suspended, it refuses its token, or a local port is in use.
        NotComing: its head does not come up.
    """
    check_awake(remote)
    with Forward(remote.api, remote.name, {PORTS["dashboard"]: port, PORTS["client"]: client_port}) as forward:
        for line in remote.wait(lambda _: forward.head() is not None, UP_SECONDS):
            say(line)
        path = write_token(remote.api, remote.name, remote.token)
        url = f"http://127.0.0.1:{forward.ports[PORTS['dashboard']]}"
        # To a wrong token Ray Client says nothing for half a minute (Ray 2.60), and the dashboard at once what is wrong.
        dashboard = Dashboard(by_port(forward.ports[PORTS["dashboard"]], remote.token), remote.name)
        for trouble in dashboard.answers(ANSWER_SECONDS):
            say(trouble.what if trouble else "")
        dashboard.jobs()
        client = f"ray://127.0.0.1:{forward.ports[PORTS['client']]}"
        environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
        yield Session(remote.name, url, client, environment), forward, dashboard.version()


def check_awake(remote: KubernetesCluster) -> None:
    """Raise `UserError` if there is no cluster, or a suspended one."""
    live = remote.kube.clusters.find(remote.name)
    if live is None:
        raise UserError(f"there is no cluster {remote.name} in namespace {remote.api.namespace}", f"heliostat up {remote.name}")
    if live["spec"].get("suspend") and remote.profile.queue:
        raise UserError(
            f"{remote.name} waits in the queue {remote.profile.queue}", f"heliostat up {remote.name} waits until it is ready"
        )
    if live["spec"].get("suspend"):
        raise UserError(f"{remote.name} is suspended", f"heliostat up {remote.name}")


def watch(remote: KubernetesCluster, forward: Forward, over: Callable[[], bool]) -> Iterator[str]:
    """Look after a session until it is over: yields a line whenever it changes how the head is."""
    said, head = "", forward.head()
    while not over():
        now, found = _condition(remote, forward)
        if found and found != head:
            # A cluster that was deleted and made again has another token.
            write_token(remote.api, remote.name, KubernetesCluster(remote.profile, remote.kube, remote.name).token)
            head = found
        if now != said:
            yield now or f"the head of {remote.name} is back"
            said = now
        time.sleep(POLL)


def write_token(api: Api, cluster: str, token: str) -> Path:
    """Write a token, in one step, to a file that only the user can read; returns its path."""
    folder = TOKENS.expanduser()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    # A separator that no quoted part holds.
    path = folder / "+".join(quote(part, safe="") for part in (api.context, api.namespace, cluster))
    handle, scratch = tempfile.mkstemp(dir=folder)  # with mode 0600
    with os.fdopen(handle, "w") as file:
        file.write(token)
    os.replace(scratch, path)
    return path


def _condition(remote: KubernetesCluster, forward: Forward) -> tuple[str, str | None]:
    """What is wrong with the head, empty if nothing is, and its name."""
    try:
        if head := forward.head():
            return "", head
        check_awake(remote)
    except Unreachable:
        return f"the API server {remote.api.server} does not answer; trying again", None
    except (UserError, KubernetesError) as error:
        return f"{error.what}; fix: {error.fix}", None
    return f"the head of {remote.name} is away; the same ports work again when it is back", None
