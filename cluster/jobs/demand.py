"""What a job waits for in Ray: placement groups, actors and tasks that have no node yet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from heliostat.cluster.jobs.dashboard import Dashboard

NO_NODE_YET = {
    "placement_groups": ("creator_job_id", ("PENDING", "RESCHEDULING")),
    "actors": ("job_id", ("PENDING_CREATION", "RESTARTING")),
    "tasks": ("job_id", ("PENDING_NODE_ASSIGNMENT",)),
}
"""Per list of the dashboard (Ray 2.60): the key with the job, and the states in which something waits for a node."""


@dataclass(frozen=True)
class Request:
    """Resources that one node must have, and the labels by which it is chosen."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)

    def fits(self, resources: Mapping[str, float], labels: Mapping[str, str]) -> bool:
        """Whether a node with these resources and labels can have it; a condition other than equality counts as met."""
        enough = all(resources.get(name, 0.0) >= amount for name, amount in self.resources.items() if _is_counted(name))
        plain = {key: value for key, value in self.labels.items() if not value.startswith(("!", "in("))}
        return enough and all(labels.get(key) == value for key, value in plain.items())


def requests_of(dashboard: Dashboard, job_id: str) -> tuple[list[Request], bool]:
    """What a job waits for, and whether another job or driver runs on the cluster.

    Args:
        dashboard: of the cluster.
        job_id: the id with which the job was submitted.
    """
    running = [job for job in dashboard.jobs() if not job.done]
    drivers = [job.driver for job in running if job.id == job_id and job.driver]
    found = [request for driver in drivers for kind in NO_NODE_YET for request in _pending(dashboard, kind, driver)]
    return found, any(job.id != job_id for job in running)


def _pending(dashboard: Dashboard, kind: str, driver: str) -> Iterator[Request]:
    key, states = NO_NODE_YET[kind]
    query = f"detail=1&limit=1000&filter_keys={key}&filter_predicates=%3D&filter_values={driver}"
    for each in dashboard.get(f"/api/v0/{kind}?{query}")["data"]["result"]["result"]:
        if each["state"] not in states:
            continue
        if kind == "placement_groups":
            yield from (
                Request(b["unit_resources"], b.get("label_selector") or {}) for b in each["bundles"] if not b["node_id"]
            )
        elif each.get("required_resources") and not each.get(
            "placement_group_id"
        ):  # else any node will do, or its group counts
            yield Request(each["required_resources"], each.get("label_selector") or {})


def _is_counted(resource: str) -> bool:
    """Whether a profile has a resource; it has no memory for Ray, and no marks of nodes and accelerators."""
    return "memory" not in resource and not resource.startswith(("node:", "accelerator_type:"))
