"""The metrics of a cluster's groups for Prometheus, from what the recorder sees, on a page beside those of the head's Ray.

Ray's own page comes with it, so that one scrape of the head has everything.
"""

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PREFIX = "ray_heliostat_"
"""That of Ray's own page for what runs and sweeps export."""
GROUPS = {
    "group_nodes": (
        "gauge", ("group", "state"), "Nodes of a worker group by state: requested, starting, idle, busy, or unknown to Ray.",
    ),
    "group_nodes_max": ("gauge", ("group",), "The most nodes that the profile allows."),
    "group_gpus": ("gauge", ("group", "state"), "GPUs of its ready nodes by state: a job holds those that are busy."),
    "group_cost_per_hour": ("gauge", ("group",), "What the nodes that have a machine cost an hour, at the profile's prices."),
    "group_cost_total": ("counter", ("group",), "What nodes have cost since the recorder began."),
    "group_wait_seconds": ("gauge", ("group", "cause"), "The longest wait of a node that is not ready yet, by its cause now."),
    "group_start_seconds": ("gauge", ("group",), "The longest start of a node according to the profile."),
    "budget_per_day": ("gauge", (), "What the profile allows a day; none without that key."),
    "budget_per_month": ("gauge", (), "What the profile allows a month; none without that key."),
    "nodes_seen_timestamp_seconds": ("gauge", (), "When the recorder last saw the nodes."),
}  # fmt: skip
"""The metrics of a cluster without the prefix: their type, labels and meaning."""
STATES = {"asked": "requested", "starting": "starting", "idle": "idle", "busy": "busy", "unknown": "unknown"}
CAUSES = ("unschedulable", "volume", "image", "config", "crash", "starting")
"""Why a node is not ready: no machine fits, a volume is missing, the image does not come, a Secret or ConfigMap that the pod
needs is missing, a container has ended, or it only takes time."""
OF_CONTAINERS = {
    "ErrImagePull": "image", "ImagePullBackOff": "image", "InvalidImageName": "image", "ErrImageNeverPull": "image",
    "CreateContainerConfigError": "config", "CreateContainerError": "config", "CrashLoopBackOff": "crash",
}  # fmt: skip
STALE_SECONDS = 30.0
"""What was last seen longer ago is not known any more."""
ASK_SECONDS = 5.0

Node = dict[str, Any]
Sample = tuple[str, dict[str, str], float]


def cause_of(pod: Node) -> str:
    """Why a pod is not ready, one of `CAUSES`."""
    status = pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            text = condition.get("message", "")
            return "volume" if "persistentvolumeclaim" in text or "volume" in text else "unschedulable"
    for container in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        state = container.get("state", {})
        if cause := OF_CONTAINERS.get(state.get("waiting", {}).get("reason", "")):
            return cause
        if state.get("terminated", {}).get("exitCode"):
            return "crash"
    return "starting"


class Groups:
    """The metrics of the groups, from one look at the nodes after the other.

    Args:
        limits: returns ``groups`` by name with ``max`` and ``start_seconds``, and the budgets a day and a month.
    """

    def __init__(self, limits: Callable[[], Node]) -> None:
        self._limits = limits
        self._nodes: dict[str, Node] = {}
        self._causes: Mapping[str, str] = {}
        self._cost: dict[str, float] = {}
        self._seen = 0.0

    def look(self, nodes: dict[str, Node], causes: Mapping[str, str], now: float) -> None:
        """Takes the nodes as `heliostat.cluster.in_pod.recorder.Recorder` gets them, and why those that wait do."""
        there = {key: dict(node) for key, node in nodes.items() if "end" not in node}
        cost = dict(self._cost)
        for key, node in there.items():
            if node["price"] is None or node["begin"] is None:
                continue
            # Of a node that is seen for the first time, what came before the recorder is not known here.
            since = max(node["begin"], self._seen or now) if key not in self._nodes else self._seen
            cost[node["group"]] = cost.get(node["group"], 0.0) + max(0.0, now - since) * node["price"] / 3600
        self._nodes, self._causes, self._cost, self._seen = there, causes, cost, now

    def samples(self, now: float) -> Iterator[Sample]:
        """The values at a time in seconds since the epoch; of nodes that were not seen for a while, none."""
        given = self._limits()
        for group, limits in given["groups"].items():
            yield "group_nodes_max", {"group": group}, limits["max"]
            yield "group_start_seconds", {"group": group}, limits["start_seconds"]
        # Earlier versions, and profiles without a budget, have no limit of a month.
        for name, money in (("budget_per_day", given["budget"]), ("budget_per_month", given.get("budget_per_month"))):
            if money is not None:
                yield name, {}, money
        for group, money in self._cost.items():
            yield "group_cost_total", {"group": group}, money
        if self._seen:
            yield "nodes_seen_timestamp_seconds", {}, self._seen
        if now - self._seen > STALE_SECONDS:
            return
        nodes = list(self._nodes.items())
        for group in {**dict.fromkeys(given["groups"]), **{node["group"]: None for _, node in nodes}}:
            yield from self._of_group(group, [(key, node) for key, node in nodes if node["group"] == group], now)

    def _of_group(self, group: str, nodes: list[tuple[str, Node]], now: float) -> Iterator[Sample]:
        for state, shown in STATES.items():
            yield "group_nodes", {"group": group, "state": shown}, sum(node["state"] == state for _, node in nodes)
        ready = [node for _, node in nodes if node["state"] in ("idle", "busy")]
        gpus = sum(node["gpus"] for node in ready)
        busy = sum(node["gpus"] * min(1.0, sum(node["work"].values())) for node in ready)
        yield "group_gpus", {"group": group, "state": "busy"}, busy
        yield "group_gpus", {"group": group, "state": "idle"}, gpus - busy
        prices = [node["price"] for _, node in nodes if node["begin"] is not None]
        if None not in prices:
            yield "group_cost_per_hour", {"group": group}, sum(prices)
        waits: dict[str, float] = {}
        for key, node in nodes:
            if node["state"] in ("asked", "starting") and not node["until"]:
                cause = self._causes.get(key, "starting")
                waits[cause] = max(waits.get(cause, 0.0), now - node["asked"])
        for cause, seconds in waits.items():
            yield "group_wait_seconds", {"group": group, "cause": cause}, seconds


def text(samples: Iterator[Sample]) -> str:
    """Samples in Prometheus' text format."""
    by_name: dict[str, list[str]] = {}
    for name, labels, value in samples:
        pairs = ",".join(f'{label}="{content}"' for label, content in labels.items())  # names of groups need no escapes
        by_name.setdefault(name, []).append(f"{PREFIX}{name}{{{pairs}}} {value}\n")
    return "".join(
        f"# HELP {PREFIX}{name} {GROUPS[name][2]}\n# TYPE {PREFIX}{name} {GROUPS[name][0]}\n{''.join(lines)}"
        for name, lines in by_name.items()
    )


class Page(BaseHTTPRequestHandler):
    """Answers a scrape with the metrics of the groups, and those of Ray's page, if it answers."""

    def __init__(self, groups: Groups, ray: str, *args: Any) -> None:
        self._groups, self._ray = groups, ray
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.path != "/metrics":
            self.send_error(404, "the page is /metrics")
            return
        page = (text(self._groups.samples(time.time())) + self._of_ray()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def _of_ray(self) -> str:
        try:
            with urllib.request.urlopen(self._ray, timeout=ASK_SECONDS) as response:
                return str(response.read().decode())
        except (OSError, HTTPException) as error:  # the head starts, or ends: then Prometheus sees only that these are missing
            return f"# no metrics of Ray: {error}\n"


def serve(groups: Groups, ray: str, host: str, port: int) -> None:
    """Serves the page in threads of its own; a port that is taken is said, and the record goes on without it."""
    try:
        server = ThreadingHTTPServer((host, port), partial(Page, groups, ray))
    except OSError as error:
        print(f"no metrics at port {port}: {error}", flush=True)
        return
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
