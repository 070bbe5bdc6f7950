"""The history of a cluster: who did what, when; how a command adds to it, and how it is read.

Proven is nothing of it: a user who may change the cluster can write another name. On Kubernetes the name is what the API server
answers to the credentials of the command; that of a job's submitter, and everything on this machine, is the user's own word.
"""

import getpass
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from heliostat.cluster.errors import KubernetesError
from heliostat.cluster.in_pod.actions import PREFIX, Action, action, annotation, file_of, waiting, written
from heliostat.cluster.in_pod.store import opened
from heliostat.cluster.kube.api import Api
from heliostat.cluster.record import UNFINISHED, Record
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
    """The command of a job."""


def note(target: KubernetesCluster | LocalCluster, what: str, which: str = "", last: bool = False) -> str:
    """Add an action to the history of a cluster; returns why it is not in it, or an empty text.

    Args:
        target: the cluster.
        what: the command.
        which: what it was about; by default the cluster.
        last: the cluster, if there is one, is deleted next: wait until its recorder has what waits.
    """
    user = _user()
    missing = "" if last else f"the cluster {target.name} does not exist"
    if isinstance(target, LocalCluster):
        if not target.exists:
            return missing
        id, made = action(user, f"{user}@{platform.node()}", what, which or target.name)
        try:
            opened(target.storage)(f"{NODES_RECORD}/{LOCAL}/{target.name}/{file_of(id, made)}", written(made))
        except OSError as error:
            return f"the storage {target.storage} cannot be written on this machine: {error}"
        return ""
    try:
        live = target.kube.clusters.find(target.name)
        if live is None:
            return missing
        if len(list(waiting(live["metadata"].get("annotations", {})))) >= MOST_WAITING:
            return f"{MOST_WAITING} actions wait for the recorder of {target.name}"
        id, made = action(_of_server(target.api), f"{user}@{platform.node()}", what, which or target.name)
        target.kube.clusters.patch(target.name, {"metadata": {"annotations": annotation(id, made)}}, live)
        return _not_taken(target) if last else ""
    except KubernetesError as error:
        return error.what


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


def _not_taken(target: KubernetesCluster) -> str:
    """Wait until a recorder has taken all actions; returns why it has not."""
    reason = f"no recorder of {target.name} runs that may read them; other actions that waited for it go with the cluster, too"
    deadline = time.monotonic() + TAKEN_SECONDS
    while live := target.kube.clusters.find(target.name):
        if not any(key.startswith(PREFIX) for key in live["metadata"].get("annotations", {})):
            return ""
        if time.monotonic() > deadline or not live["spec"].get("enableInTreeAutoscaling") or not target.answers():
            return reason
        time.sleep(POLL)
    return f"{target.name} was deleted meanwhile"


def waiting_at(target: KubernetesCluster | LocalCluster) -> list[tuple[str, Action]]:
    """The actions, with their ids, that no recorder has taken yet."""
    live = target.kube.clusters.find(target.name) if isinstance(target, KubernetesCluster) else None
    return list(waiting(live["metadata"].get("annotations", {}))) if live else []


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
    return sorted([*found, *(_of_jobs(record) if record else ())], key=lambda event: event.at)


def _of_jobs(record: Record) -> Iterator[Event]:
    for job in record.jobs.values():
        if job.begin is not None:
            yield Event(job.begin, job.labels.get("submitter", UNKNOWN), "submit", job.id, "", job.command)
        if job.end is not None and job.status not in UNFINISHED:
            yield Event(job.end, "", f"ended {job.status}", job.id, "")
