"""The history of a cluster: who did what, when; how a command adds to it, and how it is read.

Proven is nothing of it: a user who may change the cluster can write another name. On Kubernetes the name is what the API server
answers to the credentials of the command; that of a job's submitter, and everything on this machine, is the user's own word.
"""

import getpass
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from heliostat.cluster.errors import Conflict, KubernetesError
from heliostat.cluster.in_pod.actions import PREFIX, Action, action, annotation, file_of, waiting, written
from heliostat.cluster.in_pod.record import UNFINISHED, Record
from heliostat.cluster.in_pod.store import opened
from heliostat.cluster.kube.api import Api
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.names import MANAGED_BY, MANAGER
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.cluster.targets.local import LocalCluster
from heliostat.cluster.targets.local.emulation import LOCAL
from heliostat.environment import NODES_RECORD

TAKEN_SECONDS = 20.0
"""The recorder looks every two seconds, and once more after it has written."""
POLL = 0.3
UNKNOWN = "unknown"
MOST_WAITING = 200
"""Actions that wait at a RayCluster for a recorder; an object's annotations have 256 KB."""
KEPT_IN, KEPT = "heliostat-history", 200
"""The ConfigMap of a namespace with what belongs to no cluster that is there, and the most actions in it: the latest."""


@dataclass(frozen=True)
class Event:
    """A line of the history."""

    at: float
    """In seconds since the epoch, by the clock of who reports it."""
    who: str
    """`UNKNOWN` if it is not known; empty for what no user did, such as the end of a job."""
    what: str
    which: str
    origin: str
    """The user and the machine of the command, as they call themselves; empty for what the cluster has recorded."""
    about: str = ""
    """The command of a job, or why a node was drained."""


def note(target: KubernetesCluster | LocalCluster | KubeRay, what: str, which: str = "", last: bool = False) -> str:
    """Add an action to the history of a cluster; returns why it is not in it, or an empty text.

    One on Kubernetes without a cluster is kept in its namespace, and is in the history of all its profiles.

    Args:
        target: the cluster, or the namespace for what belongs to no cluster.
        what: the command.
        which: what it was about; by default the cluster.
        last: the cluster, if there is one, is deleted next: wait until its recorder has what waits.
    """
    user = _user()
    if isinstance(target, LocalCluster):
        if not target.exists:
            return "" if last else f"the cluster {target.name} does not exist"
        id, made = action(user, f"{user}@{platform.node()}", what, which or target.name)
        try:
            opened(target.storage)(f"{NODES_RECORD}/{LOCAL}/{target.name}/{file_of(id, made)}", written(made))
        except OSError as error:
            return f"the storage {target.storage} cannot be written on this machine: {error}"
        return ""
    try:
        live = None if isinstance(target, KubeRay) else target.kube.clusters.find(target.name)
        if live is None and last:
            return ""
        name = target.api.namespace if isinstance(target, KubeRay) else target.name
        made = annotation(*action(_of_server(target.api), f"{user}@{platform.node()}", what, which or name))
        if isinstance(target, KubeRay):
            _keep(target, made)
        elif live is None:
            _keep(target.kube, made)
        elif len(list(waiting(live["metadata"].get("annotations", {})))) >= MOST_WAITING:
            return f"{MOST_WAITING} actions wait for the recorder of {target.name}"
        else:
            target.kube.clusters.patch(target.name, {"metadata": {"annotations": made}}, live)
            if last:
                _wait_until_taken(target)
        return ""
    except KubernetesError as error:
        return error.what


def noted(
    target: KubernetesCluster | LocalCluster | KubeRay,
    say: Callable[[str], Any],
    what: str,
    which: str = "",
    last: bool = False,
) -> None:
    """Add an action to the history as `note` does; ``say`` is called with a remark if it is not in it."""
    if reason := note(target, what, which, last):
        name = f"namespace {target.api.namespace}" if isinstance(target, KubeRay) else target.name
        say(f"not in the history of {name}: {what}; {reason}")


def _keep(kube: KubeRay, made: Mapping[str, str]) -> None:
    """Add actions to those that the namespace keeps, in place of the oldest ones."""
    maps = kube.objects("ConfigMap")
    live = maps.find(KEPT_IN)
    if live is None:
        metadata = {"name": KEPT_IN, "labels": {MANAGED_BY: MANAGER}, "annotations": dict(made)}
        try:
            maps.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
            return
        except Conflict:  # another command was first
            live = maps.get(KEPT_IN)
    before = sorted(waiting(live["metadata"].get("annotations") or {}), key=lambda each: each[1]["t"])
    old = before[: max(0, len(before) + len(made) - KEPT)]
    maps.patch(KEPT_IN, {"metadata": {"annotations": {**{f"{PREFIX}{id}": None for id, _ in old}, **made}}})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return UNKNOWN


def _of_server(api: Api) -> str:
    """The user that the API server sees, if it tells."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        answer = api.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
        return str(answer["status"]["userInfo"]["username"])
    except (KubernetesError, LookupError):
        return UNKNOWN


def _wait_until_taken(target: KubernetesCluster) -> None:
    """Wait until a recorder has taken all actions; without one that may read them, the namespace keeps them."""
    deadline = time.monotonic() + TAKEN_SECONDS
    while live := target.kube.clusters.find(target.name):
        left = {key: text for key, text in live["metadata"].get("annotations", {}).items() if key.startswith(PREFIX)}
        if not left:
            return
        if time.monotonic() > deadline or not live["spec"].get("enableInTreeAutoscaling") or not target.answers():
            _keep(target.kube, left)
            return
        time.sleep(POLL)


def waiting_at(target: KubernetesCluster | LocalCluster) -> list[tuple[str, Action]]:
    """The actions, with their ids, that are not on the storage: no recorder has taken them yet, or they are of no cluster."""
    if isinstance(target, LocalCluster):
        return []
    found = target.kube.clusters.find(target.name), target.kube.objects("ConfigMap").find(KEPT_IN)
    return [each for live in found if live for each in waiting(live["metadata"].get("annotations") or {})]


def stored(files: Mapping[str, bytes]) -> tuple[dict[str, Action], int]:
    """The actions in files, by id, and how many files have none."""
    found: dict[str, Action] = {}
    for name, data in files.items():
        id = name.rpartition("-")[2].removesuffix(".action")
        try:
            found |= waiting({f"{PREFIX}{id}": data.decode()})
        except UnicodeDecodeError:
            continue
    return found, len(files) - len(found)


def events(actions: Iterable[Action], record: Record | None) -> list[Event]:
    """The history, the oldest first: the actions, and the jobs of a record."""
    found = [Event(each["t"], each["who"], each["what"], each["which"], each["from"]) for each in actions]
    of_record = [*_of_jobs(record), *_of_drains(record)] if record else []
    return sorted([*found, *of_record], key=lambda event: event.at)


def _of_drains(record: Record) -> Iterator[Event]:
    """Who has drained a node is not in the cluster's record."""
    for drain in record.drains:
        yield Event(drain.at, UNKNOWN, f"drain {drain.group}", drain.name, "", drain.why)


def _of_jobs(record: Record) -> Iterator[Event]:
    for job in record.jobs.values():
        if job.begin is not None:
            what = "cron start" if job.cron else "submit"
            yield Event(job.begin, job.labels.get("submitter", UNKNOWN), what, job.id, "", job.command)
        if job.end is not None and job.status not in UNFINISHED:
            yield Event(job.end, "", f"ended {job.status}", job.id, "")
