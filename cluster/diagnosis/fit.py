"""Whether the pods of a profile fit on the nodes and into the quotas: pure functions over documents."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from heliostat.cluster.diagnosis.findings import Found, ok, problem, unknown
from heliostat.cluster.diagnosis.snapshot import amount
from heliostat.cluster.documents.manifests import ray_cluster
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile
from heliostat.wording import agreeing, counted

Amounts = Mapping[str, float]
ROUNDING = 1e-9
"""Tolerance for sums of CPUs: 0.3 + 0.1 must fit into 0.4."""


@dataclass(frozen=True)
class Shape:
    """The pods of a worker group, or of the head."""

    name: str
    spec: Document
    requests: Amounts
    limits: Amounts
    least: int = 1
    most: int = 1

    @property
    def demand(self) -> Amounts:
        """What one pod uses of a quota, by the quota's resource names."""
        plain = {name: self.requests.get(name, 0.0) for name in ("cpu", "memory")}
        requests = {f"requests.{name}": value for name, value in self.requests.items()}
        limits = {f"limits.{name}": value for name, value in self.limits.items()}
        return {"pods": 1.0, "count/pods": 1.0, **plain, **requests, **limits}


def shapes(profile: Profile) -> list[Shape]:
    """The shapes of the head, with the autoscaler in its pod, and of the worker groups."""
    spec = ray_cluster(profile)["spec"]
    autoscaler = {"resources": spec.get("autoscalerOptions", {}).get("resources", {})}
    head = shape("head", spec["headGroupSpec"]["template"]["spec"], [autoscaler])
    pairs = zip(spec["workerGroupSpecs"], profile.groups, strict=True)
    return [head, *(shape(group.name, s["template"]["spec"], [], group.min, group.max) for s, group in pairs)]


def shape(name: str, spec: Document, extra: Iterable[Document] = (), least: int = 1, most: int = 1) -> Shape:
    """The shape of a pod with this spec; ``extra`` are containers that KubeRay adds."""
    containers = [*spec["containers"], *extra]
    return Shape(name, spec, _sum(containers, "requests"), _sum(containers, "limits"), least, most)


def on_nodes(pods: Iterable[Shape], nodes: list[Document], autoscaler: str) -> Found:
    """How many nodes could hold a pod of each shape if they were empty; ``autoscaler`` is what may add nodes, or empty."""
    for pod in pods:
        obstacles = [obstacle(node, pod) for node in nodes]
        if fitting := obstacles.count(None):
            together = f", and together {sum(holds(node, pod) for node in nodes)} of {pod.most}" if pod.most > 1 else ""
            yield ok(f"{pod.name}: {fitting} of {counted(len(nodes), 'node')} could hold such a pod{together}")
            continue
        reasons = Counter(each for each in obstacles if each).most_common()
        shown = (
            "; ".join(f"{count} of {len(nodes)} {agreeing(count, what)}" for (what, _), count in reasons) or "there is no node"
        )
        if autoscaler:
            yield unknown(
                f"{pod.name}: no node could hold such a pod now: {shown}", f"{autoscaler} may add one: heliostat up reports it"
            )
        else:
            fixes = dict.fromkeys(fix for (_, fix), _ in reasons)
            yield problem(f"{pod.name}: no node could hold such a pod: {shown}", "; ".join(fixes) or "add nodes")


_LOOK = "kubectl describe node shows it"
CONDITIONS = {
    f"node.kubernetes.io/{key}": found
    for key, found in {
        "disk-pressure": (
            "are under disk pressure",
            f"free disk space on them, which the kubelet also tries by itself: {_LOOK}",
        ),
        "memory-pressure": ("are under memory pressure", f"free memory on them: {_LOOK}"),
        "pid-pressure": ("have too many processes", f"end processes on them: {_LOOK}"),
        "network-unavailable": ("have no network", f"see what keeps their network plugin from starting: {_LOOK}"),
        "not-ready": ("are not ready", f"see why their kubelets are not ready: {_LOOK}"),
        "unreachable": ("are unreachable", "start their machines again, or remove those that are gone: kubectl delete node"),
        "unschedulable": ("are cordoned", "kubectl uncordon them, if their maintenance is over"),
    }.items()
}
"""Taints that Kubernetes sets by itself: what nodes are, and the fix."""


def state_of(node: Document) -> tuple[str, str] | None:
    """What keeps new pods from a node for a time, whatever they request, and the fix."""
    taints = node["spec"].get("taints", [])
    return next((found for taint in taints if (found := CONDITIONS.get(taint["key"]))), None)


def obstacle(node: Document, pod: Shape) -> tuple[str, str] | None:
    """Why an empty node could not hold such a pod, and the fix; None if it could."""
    place = "head" if pod.name == "head" else f"groups.{pod.name}"
    labels = node["metadata"].get("labels", {})
    for key, value in pod.spec.get("nodeSelector", {}).items():
        if labels.get(key) != value:
            return f"have no label {key}={value}", f"correct {place}.node_selector"
    for taint in node["spec"].get("taints", []):
        if taint["effect"] != "PreferNoSchedule" and not any(_tolerates(t, taint) for t in pod.spec.get("tolerations", [])):
            if found := CONDITIONS.get(taint["key"]):
                return found
            what = f"{taint['key']}={taint.get('value', '')}:{taint['effect']}"
            return f"have the taint {what}", f"if these are meant for it, add the taint to {place}.tolerations"
    for name, wanted in pod.requests.items():
        has = amount(node["status"]["allocatable"].get(name, "0"))
        if has + ROUNDING < wanted:
            what = f"have {_shown(name, has)} {name}, and it requests {_shown(name, wanted)}"
            return what, f"make the pods of {pod.name} smaller, or add nodes"
    return None


def holds(node: Document, pod: Shape) -> int:
    """How many such pods an empty node could hold, at most the maximum of the group."""
    if obstacle(node, pod):
        return 0
    allocatable = node["status"]["allocatable"]
    return min(pod.most, *(_times(amount(allocatable[name]), wanted) for name, wanted in pod.requests.items() if wanted))


def in_quota(quota: Document, pods: list[Shape], held: Iterable[Shape]) -> Found:
    """Whether the head and the minimum of workers fit into a quota, and how many more; ``held`` are our pods in it."""
    name, head, groups = f"quota {quota['metadata']['name']}", pods[0], pods[1:]
    left, least = _left(quota, held), _total((pod, pod.least) for pod in pods)
    if lacking := _short(left, least):
        yield problem(
            f"{name} has no room for the head and the minimum of workers: {lacking}",
            "raise it, free resources of others (heliostat status), or make head and workers smaller",
        )
        return
    room = {pod.name: _room(left, least, pod) for pod in groups}
    for pod in groups:
        if not room[pod.name]:
            lacking = _short(left, _total([(head, 1), (pod, 1)]))
            yield problem(
                f"{name} has no room for a worker of {pod.name}: {lacking}",
                f"raise it, free resources of others (heliostat status), or make the pods of {pod.name} smaller",
            )
    counts = ", ".join(f"{room[pod.name]} of {pod.most} {pod.name}" for pod in groups)
    lacking = _short(left, _total((pod, pod.most) for pod in pods))
    yield ok(f"{name} has room for the head and {counts}" + (f"; for all at once it lacks {lacking}" if lacking else ""))


def counts_ours(quota: Document) -> bool:
    """Whether our pods, with requests, no deadline and no priority class, are in the scope of a quota."""
    return "scopeSelector" not in quota["spec"] and set(quota["spec"].get("scopes", [])) <= {"NotTerminating", "NotBestEffort"}


def _left(quota: Document, held: Iterable[Shape]) -> Amounts:
    """What is left of a quota, with the share of our own pods counted as free."""
    used, ours = quota.get("status", {}).get("used", {}), _total((pod, 1) for pod in held)
    hard = quota["spec"].get("hard", {})
    return {name: amount(most) - amount(used.get(name, "0")) + ours.get(name, 0.0) for name, most in hard.items()}


def _room(left: Amounts, least: Amounts, pod: Shape) -> int:
    """How many pods of a shape fit, next to the minimum of the others."""
    more = [_times(value - least.get(name, 0), pod.demand[name]) for name, value in left.items() if pod.demand.get(name)]
    return min([pod.most, *(pod.least + count for count in more)])


def _short(left: Amounts, demand: Amounts) -> str:
    """The resources that are not enough, in words; empty if all are."""
    lacking = [name for name, value in left.items() if value + ROUNDING < demand.get(name, 0)]
    return ", ".join(f"{name} ({_shown(name, demand[name])} needed, {_shown(name, left[name])} left)" for name in lacking)


def _total(pods: Iterable[tuple[Shape, int]]) -> Amounts:
    total: Counter[str] = Counter()
    for pod, count in pods:
        total.update({name: count * value for name, value in pod.demand.items()})
    return total


def _sum(containers: Iterable[Document], kind: str) -> Amounts:
    total: dict[str, float] = {}
    for container in containers:
        for name, quantity in container.get("resources", {}).get(kind, {}).items():
            total[name] = total.get(name, 0.0) + amount(quantity)
    return total


def _times(has: float, each: float) -> int:
    return int((has + ROUNDING) // each)


def _shown(name: str, value: float) -> str:
    """Format an amount, memory in Gi."""
    return f"{value / 2**30:.4g}Gi" if "memory" in name or "storage" in name else f"{value:g}"


def _tolerates(toleration: Mapping[str, str], taint: Mapping[str, str]) -> bool:
    if toleration.get("effect") not in (None, taint["effect"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, taint["key"])
    return toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", "")
