"""The status of a cluster on Kubernetes, from the objects of the API server and the usage that Ray reports."""

from typing import Any

from heliostat.cluster.diagnosis.problem import Problem
from heliostat.cluster.diagnosis.problems import problems, queued
from heliostat.cluster.diagnosis.snapshot import Snapshot, group_of, pod_ready, pod_state
from heliostat.cluster.diagnosis.wait import one_line, status_line
from heliostat.cluster.jobs.dashboard import Job
from heliostat.cluster.jobs.demand import RayState
from heliostat.cluster.jobs.usage import NodeUsage
from heliostat.cluster.kube.conditions import condition, suspended
from heliostat.cluster.names import SUSPENDED, Document
from heliostat.cluster.profile import Profile
from heliostat.cluster.targets.status import Group, Node, State, waits_of


def kubernetes_state(profile: Profile, name: str, seen: Snapshot, ray: RayState | None, jobs: list[Job]) -> State:
    """The status of a cluster.

    Args:
        profile: the desired cluster.
        name: of the RayCluster.
        seen: the objects in the API server.
        ray: what Ray knows; None while its dashboard does not respond.
        jobs: of Ray.
    """
    if seen.cluster is None:
        return State(name, "kubernetes", "absent")
    found = problems(seen, profile, ray)
    used = ray.nodes if ray else {}
    nodes = [_node(profile, pod, used.get(pod["metadata"]["name"])) for pod in seen.pods]
    word, detail = _condition(profile, seen, seen.cluster, [each for each in found if not each.job])
    groups = [_group(profile, group.name, seen.cluster, nodes, found) for group in profile.groups]
    version = seen.cluster["spec"].get("rayVersion", "")
    waits = waits_of(found)
    return State(name, "kubernetes", word, detail, version, groups=groups, nodes=nodes, jobs=jobs, waits=waits)


def _condition(profile: Profile, seen: Snapshot, cluster: Document, found: list[Problem]) -> tuple[str, str]:
    detail = one_line(found)
    if suspended(cluster) or (cluster["spec"].get("suspend") and not seen.pods):
        waits = detail if queued(seen, profile) else ""
        return "suspended", waits or cluster["metadata"].get("annotations", {}).get(SUSPENDED, "")
    if seen.head and pod_ready(seen.head) and condition(cluster, "HeadPodReady").get("status") == "True":
        return "ready", detail
    return ("failed" if found and not found[0].patience else "starting"), status_line(found, seen)


def _node(profile: Profile, pod: Document, used: NodeUsage | None) -> Node:
    group = group_of(pod)
    spec = next((g for g in profile.groups if g.name == group), None)
    return Node(
        name=pod["metadata"]["name"],
        group=group,
        host=pod["spec"].get("nodeName", ""),
        state=pod_state(pod),
        gpus=spec.gpu if spec else 0,
        gpus_used=used.gpus_used if used else 0.0,
        cpus=used.cpus if used else 0.0,
        cpus_used=used.cpus_used if used else 0.0,
        idle_seconds=used.idle_seconds if used else None,
        price=profile.head.price if group == "head" else spec.price if spec else 0.0,
    )


def _group(profile: Profile, name: str, cluster: Document, nodes: list[Node], found: list[Problem]) -> Group:
    group, mine = profile.group(name), [node for node in nodes if node.group == name]
    live: dict[str, Any] = next((g for g in cluster["spec"].get("workerGroupSpecs", []) if g["groupName"] == name), {})
    ready_ones = [node for node in mine if node.state == "ready"]
    idle = sum(1 for node in ready_ones if node.idle_seconds is not None)
    least, most = live.get("minReplicas", group.min), live.get("maxReplicas", group.max)
    why = one_line([each for each in found if each.group == name and not each.job])
    return Group(name, least, most, live.get("replicas", 0), len(ready_ones), idle, group.price, why)
