"""Services in Ray Serve on a cluster, through its dashboard: deploy, wait, show, end; on this machine and on Kubernetes."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import urllib3

from heliostat.cluster.diagnosis.observe import RayObserver
from heliostat.cluster.diagnosis.wait import READY, poll
from heliostat.cluster.documents.ownership import contains
from heliostat.cluster.documents.serving import PORT, REPLICA
from heliostat.cluster.errors import KubernetesError, NotFound, Unreachable
from heliostat.cluster.jobs.dashboard import TIMEOUT, Dashboard
from heliostat.cluster.jobs.packaging import Package
from heliostat.cluster.names import Document
from heliostat.cluster.ports import chosen
from heliostat.cluster.targets.local import LocalCluster
from heliostat.errors import NotComing, UserError
from heliostat.wording import agreeing, counted

SECONDS = 600.0
"""Seconds until a service must answer, beside the start of the slowest node."""
ENDED_SECONDS = 120.0
"""Seconds until Serve must have ended, after the requests that it works on."""
RUNS, FAILED = "RUNNING", "DEPLOY_FAILED"
RAISED = re.compile(r"^heliostat\.errors\.UserError: (.+?)\n  fix: ([^\n]*)", re.MULTILINE | re.DOTALL)
"""What a replica whose constructor raised a `UserError` leaves in Serve's message."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LAST_LINES = 6


@dataclass(frozen=True)
class Served:
    """What a replica answers with."""

    reference: str
    """By what it is served: a run's name, or ``NAME@3`` or ``NAME@champion`` of the registry."""
    version: str
    """The number in the registry, or the step of a run."""
    checksum: str
    """Of a version of the registry."""


@dataclass(frozen=True)
class ServiceState:
    """A service on a cluster at one moment."""

    name: str
    status: str
    """Ray Serve's: DEPLOYING, RUNNING, DEPLOY_FAILED, UNHEALTHY, DELETING."""
    replicas: int
    """That answer."""
    wanted: int
    message: str
    """Why it does not answer; empty if nothing is known."""
    url: str
    config: Document
    """The application as it was deployed."""
    served: Sequence[Served] = ()
    """By the replicas, which differ while they change over; only from `with_served`."""
    unknown: str = ""
    """Why that is not known."""

    @property
    def model(self) -> str:
        """The run or the model, as the command named it."""
        return str((self.config.get("args") or {}).get("model", ""))


def services(dashboard: Dashboard) -> list[ServiceState]:
    """The services of a cluster; none if Serve does not run there."""
    answer = dashboard.get("/api/serve/applications/")
    http = answer.get("http_options") or {}
    return [
        _state(name, found, f"http://{http.get('host')}:{http.get('port')}") for name, found in answer["applications"].items()
    ]


def _state(name: str, found: Document, url: str) -> ServiceState:
    deployment = (found.get("deployments") or {}).get(REPLICA) or {}
    running = [each for each in deployment.get("replicas", []) if each["state"] == RUNS]
    message = COLOUR.sub("", deployment.get("message") or found.get("message") or "")
    return ServiceState(
        name, found["status"], len(running), deployment.get("target_num_replicas") or 0, message, url,
        found.get("deployed_app_config") or {},
    )  # fmt: skip


def with_served(state: ServiceState, reached: Callable[[], AbstractContextManager[tuple[str, str]]]) -> ServiceState:
    """The same with what its replicas serve: it is asked as often as it has replicas, which take turns.

    Args:
        state: of a service; one without replicas is not asked, as that would start one.
        reached: opens a URL of the service, and has the token of its requests; what it may raise makes the answer unknown.
    """
    if not state.replicas:
        return state
    try:
        with reached() as (url, token):
            answers = [served(state, url, token) for _ in range(state.replicas)]
    except KubernetesError as error:
        return replace(state, unknown=error.what)
    except OSError as error:  # of the file with the token
        return replace(state, unknown=str(error))
    return replace(state, served=sorted(set(answers), key=lambda each: each.version))


def served(state: ServiceState, url: str, token: str) -> Served:
    """What a replica of a service says that it serves.

    Raises:
        Unreachable: none answers.
    """
    path, headers = f"/v2/models/{quote(state.name)}", {"Authorization": f"Bearer {token}"}
    try:
        response = urllib3.request("GET", f"{url}{path}", headers=headers, timeout=TIMEOUT, retries=False)
    except urllib3.exceptions.HTTPError as error:
        raise Unreachable(f"{state.name} does not answer: {error}", "give the command again") from None
    if response.status != 200:
        text = response.data.decode(errors="replace").strip()
        raise Unreachable(f"{state.name} answered GET {path} with {response.status}: {text[:200]}", "give the command again")
    answer = json.loads(response.data)
    about = answer.get("parameters") or {"reference": state.model, "checksum": "unknown"}  # of an earlier version
    return Served(about["reference"], answer["versions"][0], about["checksum"])


def cause(message: str) -> str:
    """The end of a message of Serve, where the error of the replica is."""
    return "\n".join(f"  | {line}" for line in message.strip().splitlines()[-LAST_LINES:])


def check_answers(state: ServiceState) -> bool:
    """Whether a service answers.

    Raises:
        UserError: its model cannot be served; the replica has raised it.
        NotComing: it has failed otherwise.
    """
    if raised := RAISED.search(state.message):
        raise UserError(raised[1], raised[2])
    if state.status == FAILED:
        raise NotComing(f"{state.name} cannot be served:\n{cause(state.message)}", "correct what it names, and serve it again")
    return state.status == RUNS


def wait(
    name: str, application: Document, dashboard: Callable[[], Dashboard], look: Callable[[], str], seconds: float
) -> Iterator[str]:
    """Wait until an application is deployed as it is given here, and answers; yields status lines.

    Args:
        name: of the service.
        application: see `heliostat.cluster.documents.serving.application`.
        dashboard: of its cluster, which may be another one with each call; raises `KubernetesError` while there is none.
        look: checks the cluster: a status line, or `NotComing`.
        seconds: until it must answer.

    Raises:
        UserError: its model cannot be served.
        NotComing: it does not come, with the reason.
    """
    said = ""

    def answers() -> bool:
        nonlocal said
        try:
            found = next((each for each in services(dashboard()) if each.name == name), None)
        except (Unreachable, NotFound):
            said = ""  # what the cluster waits for says more
            return False
        if found is None or not contains(found.config, application):
            said = "waits for Ray Serve"
            return False
        said = (
            f"{found.replicas} of {counted(found.wanted, 'replica')} {agreeing(found.replicas, 'answer')}"
            if found.wanted
            else "waits for Ray Serve"
        )
        return check_answers(found)

    def looked() -> str:
        return ", ".join(each for each in (said, look()) if each not in ("", READY))

    yield from poll(looked, answers, seconds, name)


def start_locally(
    cluster: LocalCluster,
    name: str,
    code: Sequence[Package],
    config: Callable[[Sequence[Package], int], Document],
    port: int | None,
    allowed: Callable[[], None] = lambda: None,
) -> Iterator[str]:
    """Serve on a cluster on this machine, which runs; yields status lines.

    Args:
        cluster: the cluster.
        name: of the service.
        code: its packages.
        config: the configuration of Serve, by the packages with the URIs that the nodes find them by, and the port.
        port: that it listens on, or 0 for a free one; None: `PORT`, or that of the service which it changes.
        allowed: called before a new service is made; raises if it may not be.

    Raises:
        UserError: the cluster serves something else, the port is not free, or see `wait`.
        NotComing: see `wait`.
    """
    yield from cluster.wake()
    dashboard = cluster.dashboard()
    live = services(dashboard)
    if others := [each.name for each in live if each.name != name]:
        raise UserError(
            f"{cluster.name} serves {others[0]} already, and one cluster serves one model",
            f"heliostat serve stop {others[0]} --on {cluster.name}, or use another profile",
        )
    if not live:
        allowed()
    document = config([_kept(cluster.code, package) for package in code], _port(live, port))
    yield "starts Ray Serve"
    try:
        dashboard.put("/api/serve/applications/", document)
        yield from wait(
            name,
            document["applications"][0],
            cluster.dashboard,
            cluster.look(None, RayObserver(dashboard)),
            SECONDS + cluster.profile.slowest_start,
        )
    except BaseException:  # nothing half-started is left; a service that answered before goes on
        if not live:
            dashboard.delete("/api/serve/applications/")
        raise


def stop_locally(cluster: LocalCluster, name: str) -> None:
    """End a service on a cluster on this machine, after the requests that it works on.

    Raises:
        UserError: there is none of this name, or others would end with it.
    """
    found = services(cluster.dashboard())
    find(found, name, cluster.name)
    if others := [each.name for each in found if each.name != name]:  # none of ours
        raise UserError(
            f"with {name} all of Ray Serve would end on {cluster.name}, which also runs {', '.join(others)}",
            f"end these first, or end this one alone with Ray: serve.delete({name!r})",
        )
    cluster.dashboard().delete("/api/serve/applications/")


def find(found: Sequence[ServiceState], name: str, cluster: str) -> ServiceState:
    """The service of that name; raises a `UserError` if there is none."""
    known = {each.name: each for each in found}
    if name not in known:
        from heliostat.config import nearest

        fix = nearest(name, known) if known else f"heliostat serve RUN --on {cluster} starts one"
        raise UserError(f"{cluster} serves no {name}", fix)
    return known[name]


def _port(live: Sequence[ServiceState], asked: int | None) -> int:
    """The port to listen on; a service that is changed has one.

    Raises:
        UserError: it is not free, or the service has another one.
    """
    if not live:
        return chosen(PORT if asked is None else asked)
    port = int(live[0].url.rpartition(":")[2])
    if asked not in (None, port):
        fix = f"leave --port out, or end it first: heliostat serve stop {live[0].name} --on ..."
        raise UserError(f"--port is {asked}, but {live[0].name} is served at {live[0].url} already", fix)
    return port


def _kept(folder: Path, package: Package) -> Package:
    """The package as a file, in a folder of the cluster: what is uploaded to Ray is deleted there when no process has it."""
    folder.mkdir(exist_ok=True)
    path = folder / package.uri.rpartition("/")[2]
    path.write_bytes(package.data)
    return Package(f"file://{path}", package.data)
