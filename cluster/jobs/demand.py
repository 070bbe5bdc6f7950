"""What the jobs of a Ray cluster wait for, and what they hold: placement groups, actors and tasks."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from heliostat.cluster.jobs.dashboard import Dashboard, Job
from heliostat.cluster.jobs.usage import ACTIVITY, NODES, NodeUsage, usage_of

NO_NODE_YET = {
    "placement_groups": ("creator_job_id", ("PENDING", "RESCHEDULING")),
    "actors": ("job_id", ("PENDING_CREATION", "RESTARTING")),
    "tasks": ("job_id", ("PENDING_NODE_ASSIGNMENT",)),
}
"""Per list of the dashboard (Ray 2.60): the key with the job, and the states in which something waits for a node."""
LISTS = {
    "placement_groups": ("placement_groups", "!%3D", "REMOVED"),
    "actors": ("actors", "!%3D", "DEAD"),
    "waiting tasks": ("tasks", "%3D", "PENDING_NODE_ASSIGNMENT"),
    "running tasks": ("tasks", "%3D", "RUNNING"),
}
"""The lists that tell it: of what kind, and the condition on the state."""
STATUS = "/api/cluster_status?format=1"
"""The autoscaler's report as text: the only place with the strategies of placement groups (Ray 2.60)."""
STRATEGY = re.compile(r"^ (?P<bundles>\{.*) \((?P<strategy>[A-Z_]+)\): \d+\+ pending placement groups$", re.MULTILINE)


@dataclass(frozen=True)
class Request:
    """Resources that one node must have, and the labels by which it is chosen."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def counted(self) -> dict[str, float]:
        """The resources that a profile has; it has no memory for Ray, and no marks of nodes and accelerators."""
        return {name: amount for name, amount in self.resources.items() if amount and _is_counted(name)}

    def fits(self, resources: Mapping[str, float], labels: Mapping[str, str]) -> bool:
        """Whether a node with these resources and labels can have it; a condition other than equality counts as met."""
        enough = all(resources.get(name, 0.0) >= amount for name, amount in self.counted.items())
        plain = {key: value for key, value in self.labels.items() if not value.startswith(("!", "in("))}
        return enough and all(labels.get(key) == value for key, value in plain.items())


@dataclass(frozen=True)
class Demand:
    """A placement group, an actor or a task that has no node yet."""

    driver: str
    """Ray's id of the job's driver."""
    kind: str
    """placement group, actor or task."""
    name: str
    requests: Sequence[Request]
    """Of a placement group, those of its bundles that have no node."""
    since: float | None = None
    """In seconds since the epoch; None if it is not known."""
    strategy: str = ""
    """How the bundles of a placement group are spread, such as STRICT_SPREAD; empty if it is not known."""


@dataclass(frozen=True)
class Holding:
    """What a placement group, an actor or a task holds of a node."""

    node: str
    """Its name."""
    driver: str
    what: str
    """Such as ``actor Trainer``."""
    amounts: Mapping[str, float]


@dataclass(frozen=True)
class RayState:
    """What Ray knows at one moment."""

    jobs: Sequence[Job]
    nodes: Mapping[str, NodeUsage]
    """The live nodes by name."""
    demands: Sequence[Demand]
    holdings: Sequence[Holding]

    def job_of(self, driver: str) -> str:
        """The id of the job of a driver; Ray's own where it was not submitted."""
        return next((job.id for job in self.jobs if driver and job.driver == driver), driver)

    def demands_of(self, job_id: str) -> list[Demand]:
        """What one job waits for."""
        return [demand for demand in self.demands if self.job_of(demand.driver) == job_id]


def ray_state(dashboard: Dashboard) -> RayState:
    """Ask a dashboard, by requests that are sent at once.

    Raises:
        KubernetesError: it does not respond.
    """
    lists = (f"/api/v0/{kind}?{_query('state', how, state)}" for kind, how, state in LISTS.values())
    with ThreadPoolExecutor(len(LISTS) + 4) as threads:
        jobs = threads.submit(dashboard.jobs)
        answers = [*threads.map(dashboard.get, (NODES, ACTIVITY, STATUS, *lists))]
    nodes, activity, status, groups, actors, waiting, running = answers
    found = usage_of(nodes, activity)
    strategies = _strategies(status["data"]["clusterStatus"] or "")
    listed = {"placement_groups": _rows(groups), "actors": _with_times(_rows(actors), _rows(waiting)), "tasks": _rows(waiting)}
    known = jobs.result()
    drivers = {job.driver for job in known if not job.done}
    demands = [each for kind, rows in listed.items() for row in rows for each in _demand(kind, row, strategies)]
    names = {node.id: name for name, node in found.items()}
    holdings = [*_holdings(listed["placement_groups"], listed["actors"], _rows(running), names)]
    return RayState(known, found, [each for each in demands if each.driver in drivers], holdings)


def _query(key: str, how: str, value: str) -> str:
    return f"detail=1&limit=10000&filter_keys={key}&filter_predicates={how}&filter_values={value}"


def _rows(answer: Any) -> list[Any]:
    return list(answer["data"]["result"]["result"])


def _with_times(actors: list[Any], tasks: list[Any]) -> list[Any]:
    """The actors, with when they were asked for, which only the tasks that create them have."""
    times = {task.get("actor_id"): task.get("creation_time_ms") for task in tasks}
    return [{**actor, "creation_time_ms": times.get(actor.get("actor_id"))} for actor in actors]


def _demand(kind: str, row: Any, strategies: Mapping[str, str]) -> Iterator[Demand]:
    key, states = NO_NODE_YET[kind]
    if row["state"] not in states:
        return
    if kind == "placement_groups":
        bundles = [b for b in row["bundles"] or () if not b["node_id"]]
        requests = [Request(b["unit_resources"], b.get("label_selector") or {}) for b in bundles]
        asked = int((row.get("stats") or {}).get("creation_request_received_ns") or 0) / 1e9
        strategy = strategies.get(_shape(bundle["unit_resources"] for bundle in row["bundles"] or ()), "")
        yield Demand(row[key], "placement group", row.get("name") or "", requests, asked or None, strategy)
    # In a placement group its bundle counts, and without resources any node will do. An actor waits as a task as well.
    elif row.get("required_resources") and not row.get("placement_group_id") and row.get("type") in (None, "NORMAL_TASK"):
        name = row.get("class_name") or row.get("name") or ""
        since = (row.get("creation_time_ms") or 0) / 1000
        request = Request(row["required_resources"], row.get("label_selector") or {})
        yield Demand(row[key], kind.removesuffix("s"), name, [request], since or None)


def _strategies(report: str) -> dict[str, str]:
    """The strategy by the shape of the bundles, where the report has only one for it."""
    found: dict[str, set[str]] = {}
    for line in STRATEGY.finditer(report):
        bundles: list[dict[str, float]] = []
        for text, count in re.findall(r"\{([^}]*)\}(?: \* (\d+))?", line["bundles"]):
            amounts = {name: float(value) for name, value in re.findall(r"'([^']+)': ([\d.e+-]+)", text)}
            bundles += [amounts] * int(count or 1)
        found.setdefault(_shape(bundles), set()).add(line["strategy"])
    return {shape: min(names) for shape, names in found.items() if len(names) == 1}


def _shape(bundles: Any) -> str:
    counted = Counter(tuple(sorted((name, float(amount)) for name, amount in each.items() if amount)) for each in bundles)
    return repr(sorted(counted.items()))


def _holdings(groups: list[Any], actors: list[Any], tasks: list[Any], names: Mapping[str, str]) -> Iterator[Holding]:
    for group in groups:
        what = " ".join(filter(None, ("placement group", group.get("name"))))
        for bundle in group["bundles"] or ():
            if bundle["node_id"] in names:
                yield Holding(names[bundle["node_id"]], group["creator_job_id"], what, bundle["unit_resources"])
    for kind, state, rows in (("actor", "ALIVE", actors), ("task", "RUNNING", tasks)):
        for each in rows:
            if each["state"] != state or each.get("placement_group_id") or each.get("type") not in (None, "NORMAL_TASK"):
                continue
            if amounts := {name: amount for name, amount in (each.get("required_resources") or {}).items() if amount}:
                what = f"{kind} {each.get('class_name') or each.get('name') or ''}".strip()
                if each.get("node_id") in names:
                    yield Holding(names[each["node_id"]], each["job_id"], what, amounts)


def _is_counted(resource: str) -> bool:
    return "memory" not in resource and not resource.startswith(("node:", "accelerator_type:"))
