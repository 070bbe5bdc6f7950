"""Services in Ray Serve: how many replicas, and the configuration that Serve takes. Pure functions."""

import sys
from math import ceil
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile, ray_resources
from heliostat.config import Config
from heliostat.errors import UserError
from heliostat.wording import counted

REPLICA = "replica"
"""The name of the deployment, of which Serve starts replicas."""
PORT = 8000
"""The port of Serve's proxies in pods."""
UP_SECONDS, IDLE_SECONDS = 10, 120
"""How long there must be more requests than replicas for, or fewer, until their number changes."""
KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open; more than the 60 of usual proxies, which would else use a closed one."""
BEYOND = 5
"""Seconds beside those of a request until Serve gives it up, so that the replica answers first."""


SETTINGS = {
    # HAProxy in place of Serve's proxies in Python: about a tenth of the CPU time a request. It opens ports on all
    # interfaces for its figures, which the network policy closes; on one machine nothing would.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Of that all but that a replica writes its log after a thousand lines: what it says of its model would come hours later.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # A line for each request, which a process of Serve's in Python parses for metrics; and threads that wake each other up:
    # one answers some thousand requests a second.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    # A request has no effect but its answer: those that a replica has not answered, because it was killed or its node is
    # lost, are sent to another one, if they fit into the buffer. By default only those are that could not be sent. HAProxy
    # (2.8) keeps a request for that only if it is complete when it is sent on: it has to wait for the body, which clients
    # send after the head. A lost node closes no connection, but acknowledges nothing any more, neither a request (tcp-ut) nor
    # that the connection is there (srvtcpka), while one with a slow replica does. Serve has no variable for other lines of
    # HAProxy's defaults, of which this is one.
    "RAY_SERVE_HAPROXY_RETRY_ON": "\n    ".join((
        "conn-failure empty-response response-timeout", "option http-buffer-request", "timeout http-request 60s",
        "default-server tcp-ut 5s", "option srvtcpka", "srvtcpka-idle 5s", "srvtcpka-intvl 1s", "srvtcpka-cnt 3",
    )),
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(64 << 10),
}  # fmt: skip
"""Variables of the pods of a service, which Serve reads (Ray 2.60)."""


def settings(config: Document) -> dict[str, str]:
    """The variables of the pods of a service, by the configuration of Serve.

    A lost node closes no connection. A replica that is there answers within Serve's limit, be it with 503.
    """
    return {**SETTINGS, "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(ceil(config["http_options"]["request_timeout_s"]) + BEYOND)}


def _count(value: int | list[int]) -> int | list[int]:
    if isinstance(value, list) and (len(value) != 2 or not 0 <= value[0] <= value[1]):
        raise ValueError(f"{value} is no range; write [least, most], such as [1, 4]")
    if (value[1] if isinstance(value, list) else value) < 1:
        raise ValueError(f"{value} starts no replica; write 1 or more, or [0, 4] for none while no request comes")
    return value


class Replicas(Config):
    """The replicas of a service on a cluster; keys of ``--set`` with ``--on``."""

    replicas: Annotated[int | list[int], AfterValidator(_count)] = Field(
        1, description="how many replicas, or [least, most], between which Serve chooses by the requests"
    )
    cpus: float = Field(1.0, gt=0, description="CPUs of a replica, above 0")
    gpus: float = Field(0.0, ge=0, description="GPUs of a replica, such as 1 or 0.5")
    per_node: int | None = Field(None, ge=1, le=100, description="replicas on a node at most, 1 to 100; null: what fits")
    in_flight: float = Field(
        8.0, gt=0, description="with [least, most]: the requests at once a replica by which their number is chosen"
    )

    @property
    def least(self) -> int:
        """The smallest number of replicas."""
        return self.replicas[0] if isinstance(self.replicas, list) else self.replicas

    @property
    def most(self) -> int:
        """The largest number of replicas."""
        return self.replicas[1] if isinstance(self.replicas, list) else self.replicas


def check_room(profile: Profile, wanted: Replicas) -> None:
    """Raise a `UserError` if the groups at their maximum cannot hold the replicas."""
    sizes = [(group, ray_resources(group)) for group in profile.groups]
    held = {group.name: group.max * _times(size, wanted) for group, size in sizes}
    if not any(held.values()):
        shown = "; ".join(
            f"{group.name} has {counted(size['CPU'], 'CPU')} and {counted(size['GPU'], 'GPU')}" for group, size in sizes
        )
        raise UserError(
            f"a replica needs {counted(wanted.cpus, 'CPU')} and {counted(wanted.gpus, 'GPU')}, and no node of "
            f"{profile.name} has them: {shown}",
            "lower cpus or gpus (--set), or enlarge a group of the profile",
        )
    if wanted.most > (room := sum(held.values())):
        raise UserError(
            f"replicas is {wanted.replicas}, but the groups of {profile.name} at their maximum hold {room} of these",
            f"--set replicas={room}, or raise max of a group in the profile",
        )


def _times(size: dict[str, float], wanted: Replicas) -> int:
    """How many replicas a node holds."""
    amounts = ((size["CPU"], wanted.cpus), (size["GPU"], wanted.gpus))
    return min(wanted.per_node or sys.maxsize, *(int(has / needs + 1e-9) for has, needs in amounts if needs))


def application(
    name: str, built_by: str, args: Document, runtime_env: Document, wanted: Replicas, requests: int, seconds: float
) -> Document:
    """An application of Serve, with one deployment.

    Args:
        name: of the service.
        built_by: the function that makes it, ``module:function``.
        args: what that function gets.
        runtime_env: the code of its processes, see `heliostat.cluster.jobs.packaging.runtime_env`.
        wanted: the replicas.
        requests: that a replica works on or has waiting at once, at most, and that may wait for one.
        seconds: the time limit of a request.
    """
    count: Document = {"num_replicas": wanted.least}
    if wanted.least != wanted.most:
        count = {
            "autoscaling_config": {
                "min_replicas": wanted.least,
                "initial_replicas": max(1, wanted.least),  # so that a model that cannot be loaded is seen at once
                "max_replicas": wanted.most,
                "target_ongoing_requests": wanted.in_flight,
                "upscale_delay_s": UP_SECONDS,
                "downscale_delay_s": IDLE_SECONDS,
            }
        }
    deployment = {
        "name": REPLICA,
        **count,
        "max_ongoing_requests": requests,
        "max_queued_requests": requests,
        "backpressure_config": {"status_code": 503, "retry_after_s": 1},
        "graceful_shutdown_timeout_s": seconds + BEYOND,
        # The new replicas of an update answer before the old ones end, so that no request is lost, and none if they fail.
        "max_surge_percent": 100,
        **({"max_replicas_per_node": wanted.per_node} if wanted.per_node else {}),
        "ray_actor_options": {"num_cpus": wanted.cpus, **({"num_gpus": wanted.gpus} if wanted.gpus else {})},
    }
    return {
        "name": name,
        "route_prefix": "/",
        "import_path": built_by,
        "args": args,
        "runtime_env": runtime_env,
        "logging_config": {"enable_access_log": False},
        "deployments": [deployment],
    }


def serve_config(
    applied: Document, host: str, port: int, seconds: float, wait: float = BEYOND, everywhere: bool = True
) -> dict[str, Any]:
    """The configuration of Serve with one application.

    Args:
        applied: see `application`.
        host: the address that the proxies listen on.
        port: their port.
        seconds: the time limit of a request.
        wait: for how long a request may wait for a replica besides.
        everywhere: a proxy on each node with a replica, not on the head alone.
    """
    return {
        "proxy_location": "EveryNode" if everywhere else "HeadOnly",
        "http_options": {
            "host": host, "port": port, "request_timeout_s": seconds + wait, "keep_alive_timeout_s": KEEP_ALIVE,
        },
        "applications": [applied],
    }  # fmt: skip
