"""What each node of a Ray cluster is used for, from its dashboard.

Tested with Ray 2.60 and autoscaler v2; `heliostat.cluster.jobs.usage` says what the dashboard reports where.
"""

import json
import re
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from typing import Any

FINISHED = ("SUCCEEDED", "FAILED", "STOPPED")
SERVING = "SERVING"
"""The status of a service, which is no job of Ray's: one that ends has done its work."""
SERVICE = "serve:"
"""What the ids of services begin with, and no name of a run does."""
REPLICA = re.compile(r"ServeReplica:(?P<application>[^:]+):.*")
"""The class of an actor of Serve that answers requests."""
READER = "reader"
"""The value of the metadata ``heliostat`` of a job that only reads the storage."""
LABEL = "label."
"""The prefix of the metadata of a job that are labels of the user's."""
LONGEST = 200
"""Characters of a command in a record."""
USED = re.compile(
    r"(?P<used>[\d.e+-]+)\w*/\S+ (?P<name>\S+)"
    r"(?: \((?P<inside>[\d.e+-]+)\w* used of (?P<reserved>[\d.e+-]+)\w* reserved in placement groups\))?"
)
"""A line such as ``1.0/4.0 GPU (1.0 used of 2.0 reserved in placement groups)``; memory has units."""

NOT_KNOWN = (OSError, ValueError, LookupError, TypeError, HTTPException)
"""Errors of a request without an answer, or with an incomplete one."""

Node = dict[str, Any]
Get = Callable[[str], Any]


def dashboard(url: str, token: str, seconds: float = 5.0) -> Get:
    """A function that gets the JSON document at a path of a dashboard."""

    def get(path: str) -> Any:
        return json.loads(_answer(url + path, token, seconds))

    return get


def stopping(url: str, token: str, seconds: float = 5.0) -> Callable[[str], None]:
    """A function that has a dashboard stop a job: its driver gets SIGTERM, and may write its last checkpoint."""

    def stop(id: str) -> None:
        _answer(f"{url}/api/jobs/{id}/stop", token, seconds, "POST")

    return stop


def _answer(url: str, token: str, seconds: float, method: str = "GET") -> bytes:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"}, method=method)
    with urllib.request.urlopen(request, timeout=seconds) as response:
        data: bytes = response.read()
    return data


def held(text: str) -> dict[str, float]:
    """The amount of each resource in use, including reservations of placement groups.

    Ray's text counts only what a task uses inside of a placement group, but reserved resources are not free.
    """
    found = {}
    for line in USED.finditer(text):
        found[line["name"]] = float(line["used"]) - float(line["inside"] or 0) + float(line["reserved"] or 0)
    return found


def uses(get: Get) -> tuple[dict[str, Node], dict[str, Node]]:
    """The nodes as `nodes` returns them, and the jobs with the services that hold nodes."""
    known = jobs(get)
    found = nodes(get, known)
    services = sorted({job for node in found.values() for job in node["work"] if job.startswith(SERVICE)})
    return found, known | {service: _service(service) for service in services}


def _service(id: str) -> Node:
    command = f"heliostat serve {id.removeprefix(SERVICE)}"
    return {"status": SERVING, "driver": "", "run": id, "command": command, "labels": {}, "begin": None, "end": None}


def jobs(get: Get) -> dict[str, Node]:
    """The jobs and other drivers, by id; times are in seconds since the epoch."""
    return {
        answer.get("submission_id") or answer["job_id"]: _job(answer)
        for answer in get("/api/jobs/")
        if (answer.get("metadata") or {}).get("heliostat") != READER
    }


def _job(answer: Mapping[str, Any]) -> Node:
    about = answer.get("metadata") or {}
    begin, end = (answer.get(key) / 1000 if answer.get(key) else None for key in ("start_time", "end_time"))  # type: ignore[operator]
    return {
        "status": answer["status"], "driver": answer.get("job_id") or "", "run": about.get("run", ""),
        "command": (about.get("command") or answer.get("entrypoint") or "")[:LONGEST],
        "labels": {key.removeprefix(LABEL): value for key, value in about.items() if key.startswith(LABEL)},
        "begin": begin, "end": end, **({"cron": about["cron"]} if "cron" in about else {}),
        **({"over_budget": True} if "over_budget" in about else {}),
    }  # fmt: skip


def nodes(get: Get, known: Mapping[str, Node]) -> dict[str, Node]:
    """The live nodes by name, each with its ``id`` and ``group``, when it ``began``, and its ``work``.

    That is the share of it that each job holds; "" is a job that is not known.

    A share is that of the CPUs or of the GPUs, whichever is larger, because nothing else can use the rest of a node whose GPUs
    are taken. The head is shared by all jobs that run, and by services with replicas.
    """
    data = get("/nodes?view=summary&nocache=1")["data"]
    alive = [node["raylet"] for node in data["summary"] if node["raylet"].get("state") == "ALIVE"]
    used = {raylet["nodeId"]: held(data["nodeLogicalResources"].get(raylet["nodeId"], "")) for raylet in alive}
    running = [job for job, about in known.items() if about["status"] not in FINISHED]
    workers = [raylet for raylet in alive if not raylet.get("isHeadNode")]
    holders = _holders(get, known) if any(_fraction(used[each["nodeId"]], each) for each in workers) else {}
    running += sorted({job for jobs in holders.values() for job in jobs if job.startswith(SERVICE)})
    found = {}
    for raylet in alive:
        node = raylet["nodeId"]
        if raylet.get("isHeadNode"):
            work = dict.fromkeys(running, 1 / len(running)) if running else {}
        else:
            work = _shares(_fraction(used[node], raylet), holders.get(node, {}), raylet)
        group = "head" if raylet.get("isHeadNode") else raylet.get("nodeTypeName", "?")
        began = float(raylet["startTimeMs"]) / 1000
        found[raylet.get("instanceId") or node] = {"work": work, "id": node, "group": group, "began": began}
    return found


def _shares(whole: float, holders: Mapping[str, Mapping[str, float]], raylet: Mapping[str, Any]) -> dict[str, float]:
    """The share of each job, which together are what Ray says is in use."""
    if not whole:
        return {}
    parts = {job: part for job, amounts in holders.items() if (part := _fraction(amounts, raylet))}
    total = sum(parts.values())
    if not total:
        return {"": round(whole, 4)}
    return {job: round(part / total * whole, 4) for job, part in parts.items()}


def _fraction(amounts: Mapping[str, float], raylet: Mapping[str, Any]) -> float:
    totals = raylet.get("resourcesTotal", {})
    return min(1.0, max((amounts.get(name, 0.0) / totals[name] for name in ("CPU", "GPU") if totals.get(name)), default=0.0))


def _holders(get: Get, known: Mapping[str, Node]) -> dict[str, dict[str, dict[str, float]]]:
    """By node and job or service, the resources that its placement groups, actors and tasks hold."""
    ids = {about["driver"]: job for job, about in known.items() if about["driver"]}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for node, holder, amounts in _holdings(get):
        id = holder if holder.startswith(SERVICE) else ids.get(holder, "")
        job = found.setdefault(node, {}).setdefault(id, {})
        for name, amount in amounts.items():
            job[name] = job.get(name, 0.0) + amount
    return found


def _holdings(get: Get) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    for group in _listed(get, "placement_groups", "CREATED"):
        for bundle in group["bundles"] or ():
            yield bundle["node_id"], group["creator_job_id"], bundle["unit_resources"]
    for kind, state in (("actors", "ALIVE"), ("tasks", "RUNNING")):
        for each in _listed(get, kind, state):
            if not each.get("placement_group_id") and each.get("type") != "ACTOR_TASK":
                # All replicas belong to the job of Serve's controller.
                replica = REPLICA.fullmatch(each.get("class_name") or "")
                holder = f"{SERVICE}{replica['application']}" if replica else each["job_id"]
                yield each["node_id"], holder, each.get("required_resources") or {}


def _listed(get: Get, kind: str, state: str) -> Any:
    query = f"detail=1&limit=10000&filter_keys=state&filter_predicates=%3D&filter_values={state}"
    return get(f"/api/v0/{kind}?{query}")["data"]["result"]["result"]
