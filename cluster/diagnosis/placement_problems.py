"""Why a pod gets no node or no volume."""

import re
from collections import Counter
from collections.abc import Iterator

from heliostat.cluster.diagnosis.fit import CONDITIONS, obstacle, shape, state_of
from heliostat.cluster.diagnosis.problem import Problem, about, at, missing_fix, start_seconds
from heliostat.cluster.diagnosis.snapshot import Snapshot, amount, created_at, group_of, statuses
from heliostat.cluster.field_types import cpus
from heliostat.cluster.kube.conditions import condition
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile, WorkerGroup, volumes
from heliostat.wording import agreeing, counted

SCALES_UP = ("TriggeredScaleUp", "Nominated", "NodeClaimCreated")
"""Events of cluster autoscalers (upstream, Karpenter): a node for this pod is being added."""

SECONDS_TO_SCALE_UP = 12
"""A cluster autoscaler checks every ten seconds; without an event of it after that, there is none."""

ELSEWHERE = "volume node affinity conflict|didn't match PersistentVolume's node affinity"
"""What the scheduler says of a volume that is bound to other nodes (Kubernetes up to 1.33, and 1.34)."""

MOUNTED = ("Pulling", "Pulled", "Created", "Started")
"""Events of a pod after its volumes are mounted."""

SECONDS_TO_MOUNT = 10
"""A mount that fails again and again has failed several times by then."""


def of_node(pod: Document, snapshot: Snapshot, profile: Profile) -> Iterator[Problem]:
    """Why a pod is unschedulable."""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("reason") != "Unschedulable":
        return
    group, message = group_of(pod), scheduled.get("message", "")
    if found := re.search(r'persistentvolumeclaim "([^"]+)" not found', message):
        yield Problem(
            f"claim {found[1]}",
            f"{group}: the claim {found[1]} does not exist",
            "create it, or correct volumes in the profile"
            if found[1] in [volume.claim for _, volume in volumes(profile)]
            else "set storage.size so that it is created, or correct storage.claim",
            2,
        )
        return
    if "unbound immediate PersistentVolumeClaims" in message:
        yield Problem(
            f"unbound {group}",
            f"{group}: its claim gets no volume",
            "heliostat doctor lists the storage classes; set storage.storage_class",
            12,
        )
        return
    if re.search(ELSEWHERE, message):
        yield Problem(
            f"zone {group}",
            f"{group}: no node can mount its volume, which is bound to another zone or node: {_plain(message)}",
            "use a claim that the nodes of all groups can mount, or groups with a node_selector for the zone of the volume",
            2 if not profile.node_autoscaling else start_seconds(profile, group),
        )
        return
    what, possible, fixes = _shortage(pod, group, message, snapshot.nodes)
    fix = "; ".join([*fixes, _shortage_fix(message, group)])
    if "Insufficient" not in message and (refusals := _refusals(pod, group, snapshot.nodes or [])):
        what, fix = f"{group}: no node accepts its pod: {'; '.join(refusals)}", "; ".join(dict.fromkeys(refusals.values()))
    patience = SECONDS_TO_SCALE_UP if not possible else start_seconds(profile, group)
    # Without the right to list nodes or events, a full or growing cluster looks like an impossible request.
    unseen = snapshot.nodes is None or snapshot.events is None
    if unseen or profile.node_autoscaling or _node_is_coming(pod, snapshot.events or []) or _replaceable(profile, group):
        patience = start_seconds(profile, group) + 60
    then = "the scheduler places it as soon as a node has room" if possible else ""
    if _node_is_coming(pod, snapshot.events or []):
        then = "a node is being added for it"
    if _replaceable(profile, group) and (created := created_at(pod)):
        then = f"the autoscaler gives it up at {at(created + start_seconds(profile, group))}, and uses another group"
    yield Problem(f"unschedulable {group}", what, fix, patience, then=then)


def _shortage(pod: Document, group: str, message: str, nodes: list[Document] | None) -> tuple[str, bool, list[str]]:
    """The resources that no node has free, whether some node has them at all, and fixes of such nodes."""
    wanted = _requests(pod)
    short = sorted(set(re.findall(r"Insufficient ([\w./-]*\w)", message)))
    asks = ", ".join(f"{name} {_readable(name, wanted[name])}" for name in short if name in wanted)
    if nodes is None:
        return f"{group}: no node accepts its pod: {message}", False, []
    if not asks:
        return f"{group}: no node accepts its pod: {_plain(message)}", False, []
    fitting = [node for node in nodes if all(amount(node["status"]["allocatable"].get(n, "0")) >= a for n, a in wanted.items())]
    for name in short:
        having = [amount(node["status"]["allocatable"].get(name, "0")) for node in nodes]
        if max(having, default=0) < wanted.get(name, 0):
            many = sum(1 for most in having if most)
            return (
                f"{group}: no node is large enough for its pod ({asks}): of {counted(len(nodes), 'node')} {many} "
                f"{agreeing(many, 'have')} {name}, the largest {_readable(name, max(having, default=0))}",
                False,
                [],
            )
    if not fitting:
        return f"{group}: no node has everything that its pod requests ({asks}): {_plain(message)}", False, []
    having_it = f"{len(fitting)} of {counted(len(nodes), 'node')} {agreeing(len(fitting), 'have')} it"
    states = Counter(found for node in fitting if (found := state_of(node)))
    if not states:
        return f"{group}: waits for {asks}: {having_it}, and it is in use", True, []
    used = [f"it is in use on {len(fitting) - states.total()}"] if states.total() < len(fitting) else []
    parts = "; ".join([*used, *(f"{count} {agreeing(count, what)}" for (what, _), count in states.most_common())])
    fixes = [fix for _, fix in states]
    return f"{group}: waits for {asks}: {having_it}: {parts}", True, fixes


def _refusals(pod: Document, group: str, nodes: list[Document]) -> dict[str, str]:
    """Why nodes refuse a pod, with the fix of each, first what may pass; empty if that does not tell it of all nodes."""
    wanted = shape(group, pod["spec"])
    obstacles = Counter(found for node in nodes if (found := obstacle(node, wanted)))
    if obstacles.total() < len(nodes):
        return {}
    first = sorted(obstacles.most_common(), key=lambda each: each[0] not in CONDITIONS.values())
    return {f"{count} of {len(nodes)} {agreeing(count, what)}": fix for (what, fix), count in first}


def _shortage_fix(message: str, group: str) -> str:
    if "untolerated taint" in message and "Insufficient" not in message:
        return f"add the taint that it names to groups.{group}.tolerations"
    if "affinity/selector" in message and "Insufficient" not in message:
        return f"correct groups.{group}.node_selector: kubectl get nodes --show-labels"
    return f"make the pods of {group} smaller in the profile, free resources of others (heliostat status), or add nodes"


def _plain(message: str) -> str:
    return message.partition(" preemption:")[0].rstrip(". ")


def _requests(pod: Document) -> dict[str, float]:
    total: dict[str, float] = {}
    for container in pod["spec"]["containers"]:
        for name, quantity in container.get("resources", {}).get("requests", {}).items():
            total[name] = total.get(name, 0) + amount(quantity)
    return total


def _readable(name: str, value: float) -> str:
    return f"{value / 2**30:.3g}Gi" if name in ("memory", "ephemeral-storage") else f"{value:g}"


def _node_is_coming(pod: Document, events: list[Document]) -> bool:
    return any(event["reason"] in SCALES_UP for event in about(pod, events))


def _replaceable(profile: Profile, group: str) -> bool:
    """Whether the autoscaler can use another group if pods of this one do not start."""
    return any(_can_replace(other, this) for this in profile.groups if this.name == group for other in profile.groups)


def _can_replace(other: WorkerGroup, this: WorkerGroup) -> bool:
    same_kind = bool(other.gpu) == bool(this.gpu) and other is not this
    return same_kind and other.gpu >= this.gpu and cpus(other.cpu) >= cpus(this.cpu)


UNSEEN = "no relationship found between node"
"""In the message of the node authorizer about a pod that it does not know yet (Kubernetes 1.34)."""


def of_volumes(pod: Document, events: list[Document], profile: Profile) -> Iterator[Problem]:
    """Volumes that cannot be mounted."""
    waiting = {(status.get("state", {}).get("waiting") or {}).get("reason") for status in statuses(pod)}
    if pod.get("status", {}).get("phase") != "Pending" or not waiting <= {"ContainerCreating", "PodInitializing"}:
        return  # the volumes have been mounted
    of_pod, group = about(pod, events), group_of(pod)
    if any(event["reason"] in MOUNTED for event in of_pod):
        return
    for event in of_pod:
        if event["reason"] in ("FailedMount", "FailedAttachVolume"):
            message = event.get("message", "")
            patience = SECONDS_TO_MOUNT if _repeats(event) else start_seconds(profile, group)
            what = f"{group}: a volume cannot be mounted: {message}"
            yield Problem(f"mount {group}", what, missing_fix(message), patience)


def _repeats(event: Document) -> bool:
    """Whether a failure came back in a later try.

    A first one is often of the moment: a cache that is not in sync. A volume that is attached to a lost node is released after
    minutes, and an authorizer that has not seen the pod yet may be behind for several tries on a busy control plane.
    """
    message = event.get("message", "")
    return int(event.get("count") or 1) > 1 and not (message.startswith("Multi-Attach") or UNSEEN in message)
