"""Client of a Ray dashboard: jobs, packages and nodes over HTTP.

Ray's own ``JobSubmissionClient`` needs the same Ray version, and cannot pass the API server's proxy with a client certificate;
this one needs neither. Every unexpected response is an exception of `heliostat.cluster.errors`.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import urllib3
from websocket import create_connection

from heliostat.cluster.errors import Conflict, Forbidden, Invalid, KubernetesError, NotFound, Unauthorized, Unreachable
from heliostat.cluster.in_pod.ray_usage import FINISHED, READER
from heliostat.cluster.retries import SECONDS, pauses, send

DONE = FINISHED
TIMEOUT = urllib3.Timeout(connect=5, read=30)
UPLOAD = urllib3.Timeout(connect=600, read=600)
"""urllib3 (2.8) applies the connect timeout while it sends a body."""
NO_AGENT, AGENT_SECONDS = "No available agent", 120.0
"""What Ray (2.60) answers, after ten seconds, if a head that has just started cannot take a job yet; how long it may do so."""
NOT_INSTALLED = 501
"""What it answers to a question about Serve without the packages of its extra."""
NO_GCS = "Failed to connect to Ray cluster"
"""What it answers to a question about Serve from a head that starts, or is too busy."""


class Socket(Protocol):
    """A websocket of the package ``websocket-client``."""

    def recv(self) -> str | bytes: ...
    def settimeout(self, seconds: float) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Endpoint:
    """How to reach a dashboard: its URL, the headers with its token, and the connection pool."""

    url: str
    headers: Callable[[], dict[str, str]]
    pool: urllib3.PoolManager
    open_socket: Callable[[str], Socket]
    """Opens a websocket to a path of the dashboard."""


def by_port(port: int, token: str) -> Endpoint:
    """The endpoint of a dashboard with token authentication at a local port."""
    headers = {"Authorization": f"Bearer {token}"}

    def open_socket(path: str) -> Socket:
        opened: Socket = create_connection(f"ws://127.0.0.1:{port}{path}", timeout=5, header=headers)
        return opened

    return Endpoint(f"http://127.0.0.1:{port}", lambda: headers, urllib3.PoolManager(), open_socket)


@dataclass(frozen=True)
class Job:
    """A job as the dashboard reports it; times are in seconds since the epoch."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    entrypoint: str
    message: str = ""
    exit_code: int | None = None
    started: float | None = None
    ended: float | None = None
    kind: str = "SUBMISSION"
    """SUBMISSION, or DRIVER: a Ray Client session or another process that has connected to the cluster."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    node: str = ""
    """The node of its driver."""
    driver: str = field(default="", compare=False)
    """Ray's own id of its driver; empty until the job has connected to Ray."""
    said: str = ""
    """The last line that it has printed; only from `Dashboard.with_last_lines`."""

    @property
    def done(self) -> bool:
        return self.status in DONE

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "Job":
        seconds = [answer.get(key) / 1000 if answer.get(key) else None for key in ("start_time", "end_time")]  # type: ignore[operator]
        return cls(
            id=answer.get("submission_id") or answer.get("job_id") or "",
            status=answer["status"],
            entrypoint=answer.get("entrypoint") or "",
            message=answer.get("message") or "",
            exit_code=answer.get("driver_exit_code"),
            started=seconds[0],
            ended=seconds[1],
            kind=answer.get("type", "SUBMISSION"),
            metadata=answer.get("metadata") or {},
            node=answer.get("driver_node_id") or "",
            driver=answer.get("job_id") or "",
        )


class Dashboard:
    """Requests to one dashboard.

    Args:
        endpoint: how to reach it.
        name: the cluster's name, for messages.
    """

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self.endpoint, self.name = endpoint, name

    def version(self) -> str:
        """The version of Ray in the cluster."""
        return str(self._json("GET", "/api/version")["ray_version"])

    def python_version(self) -> str:
        """The version of Python in the cluster, such as 3.11.4; empty if its dashboard does not have it."""
        found = self._json("GET", "/api/v0/cluster_metadata").get("data") or {}
        return str(found.get("pythonVersion", ""))

    def probe(self) -> None:
        """Raise an exception if it does not respond; the request is not repeated, for callers that poll."""
        self._request("GET", "/api/version", within=0)

    def jobs(self) -> list[Job]:
        """List the submitted jobs, and other drivers that are or were connected."""
        return [Job.of(answer) for answer in self._json("GET", "/api/jobs/")]

    def submissions(self) -> list[Job]:
        """List the jobs that users have submitted."""
        return [job for job in self.jobs() if job.kind == "SUBMISSION" and job.metadata.get("heliostat") != READER]

    def with_last_lines(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs, running ones with the last line that they have printed."""
        return [replace(job, said="".join(self.last_lines(job, 1)).strip()) for job in jobs]

    def last_lines(self, job: Job, count: int) -> list[str]:
        """The last lines that a running job has printed; none of another job."""
        if job.status != "RUNNING" or not job.node:
            return []
        query = f"node_id={job.node}&filename=job-driver-{job.id}.log&lines={count}"
        response = self._request("GET", f"/api/v0/logs/file?{query}", ok=(200, 404, 500))
        # Ray responds with 500 for a log that does not exist yet.
        return response.data.decode(errors="replace").splitlines()[-count:] if response.status == 200 else []

    def job(self, job_id: str, within: float = SECONDS) -> Job:
        """Get a submitted job; ``within`` as for `heliostat.cluster.retries.send`.

        Raises:
            NotFound: no job has that id; a restarted head has none of the earlier jobs.
        """
        return Job.of(self._json("GET", f"/api/jobs/{job_id}", within=within))

    def submit(self, job_id: str, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        """Start a job on the head; does nothing if a job with that id exists."""
        body = {
            "submission_id": job_id, "entrypoint": entrypoint, "runtime_env": dict(runtime_env), "metadata": dict(metadata),
        }  # fmt: skip
        deadline = time.monotonic() + AGENT_SECONDS
        for pause in pauses():
            try:
                with suppress(Conflict):
                    self._json("POST", "/api/jobs/", json.dumps(body).encode())
                return
            except Unreachable as error:
                if NO_AGENT not in error.what or time.monotonic() > deadline:
                    raise
            time.sleep(pause)

    def stop(self, job_id: str) -> bool:
        """Request that a job stops; False if it has finished already."""
        return bool(self._json("POST", f"/api/jobs/{job_id}/stop")["stopped"])

    def has_package(self, uri: str) -> bool:
        """Whether a package, ``gcs://NAME.zip``, has been uploaded."""
        return self._request("GET", f"/api/packages/{uri.replace('://', '/')}", ok=(200, 404)).status == 200

    def upload(self, uri: str, data: bytes) -> None:
        """Upload a package."""
        self._request("PUT", f"/api/packages/{uri.replace('://', '/')}", data, timeout=UPLOAD)

    def get(self, path: str) -> Any:
        """Get the JSON document at a path."""
        return self._json("GET", path)

    def put(self, path: str, document: Mapping[str, Any]) -> None:
        """Put a JSON document at a path, which may take long."""
        self._request("PUT", path, json.dumps(document).encode(), timeout=UPLOAD)

    def delete(self, path: str) -> None:
        """Delete what is at a path, which may take long."""
        self._request("DELETE", path, timeout=UPLOAD)

    def logs(self, job_id: str, within: float = SECONDS) -> str:
        """Get the output of a job so far; ``within`` as for `heliostat.cluster.retries.send`."""
        return str(self._json("GET", f"/api/jobs/{job_id}/logs", within=within)["logs"])

    def tail(self, job_id: str) -> Socket:
        """Open a websocket that sends the output of a job, from its first line on."""
        return self.endpoint.open_socket(f"/api/jobs/{job_id}/logs/tail")

    def retry(self, within: float) -> Iterator[KubernetesError | None]:
        """Retry until the dashboard responds: yields the error of each attempt, then None."""
        deadline = time.monotonic() + within
        while True:
            try:
                self.probe()
            except (Unreachable, NotFound) as error:
                if time.monotonic() > deadline:
                    raise
                yield error
                time.sleep(0.3)
            else:
                yield None
                return

    def _json(self, method: str, path: str, body: bytes | None = None, within: float = SECONDS) -> Any:
        response = self._request(method, path, body, within=within)
        try:
            return json.loads(response.data)
        except ValueError:
            raise Unreachable(
                f"the dashboard of {self.name} responded to {method} {path} with something other than JSON", "heliostat doctor"
            ) from None

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        ok: tuple[int, ...] = (200,),
        timeout: urllib3.Timeout = TIMEOUT,
        within: float = SECONDS,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request; all may be repeated, because a job is submitted and stopped by its id."""
        headers = {**self.endpoint.headers(), "Content-Type": "application/json"}
        url, options = f"{self.endpoint.url}{path}", {"body": body, "headers": headers, "timeout": timeout}
        try:
            response = send(self.endpoint.pool, method, url, True, within, **options)
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"the dashboard of {self.name} does not answer: {error}", "heliostat doctor says why") from None
        if response.status in ok:
            return response
        raise _refused(self.name, response.status, response.data.decode(errors="replace").strip())


def _refused(name: str, status: int, text: str) -> KubernetesError:
    """The exception for an error response of a dashboard, or of the API server's proxy in front of it."""
    if "authentication token" in text:
        return Unauthorized(
            f"the dashboard of {name} rejected the token: {text[:200]}",
            f"the token in the Secret is not that of the pods of {name}: heliostat down {name}, then up",
        )
    if '"kind":"Status"' in text:  # a response of the API server, from the proxy in front of the dashboard
        message = json.loads(text).get("message", text)
        if status == 401:
            return Unauthorized(f"the API server in front of {name} rejects these credentials", "log in again")
        if status == 403:
            return Forbidden(
                f"no right to reach the dashboard of {name}: {message}", "heliostat render --rbac lists the rights"
            )
        return Unreachable(f"the dashboard of {name} cannot be reached: {message}", "heliostat status shows its state")
    if status == 404:
        return NotFound(f"{name} does not have it: {text[:300]}", "heliostat status lists the jobs")
    if status == NOT_INSTALLED:
        return Invalid(
            f"the Ray of {name} cannot serve: {text[:200]}",
            "use an image with ray[serve]; for a local cluster pip install 'heliostat[serve]', then heliostat down and up",
        )
    if status in (429, 502, 503, 504) or NO_AGENT in text or NO_GCS in text:
        return Unreachable(f"the dashboard of {name} answered {status}: {text[:200]}", "heliostat status shows its state")
    if "already exists" in text:
        return Conflict(f"the job exists already: {text[-300:]}", "use another name")
    return KubernetesError(f"the dashboard of {name} answered {status}: {text[-600:]}", "correct what it names")
