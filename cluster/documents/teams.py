"""The Kubernetes documents of a team: namespace, roles, isolation, quota, and its queue of Kueue."""

import json
from typing import Any

from heliostat.cluster.documents.rbac import NAME, RBAC, RIGHTS, Right, granting
from heliostat.cluster.field_types import UNITS, cpus, size
from heliostat.cluster.names import BUDGETS, ENFORCE, MANAGED_BY, MANAGER, TEAM_BUDGET, TEAM_LABEL, TEAM_LIMITS, Document
from heliostat.cluster.team import Member, Queue, Team

VIEWER = "heliostat-viewer"
KUEUE = "kueue.x-k8s.io/v1beta1"
"""The version of `heliostat.cluster.kube.api.KINDS`."""
HIDDEN = ("secrets", "pods/portforward", "services/proxy", "configmaps", "rayjobs", "serviceaccounts", "roles", "rolebindings")
"""What a member who only looks does not read: tokens, results, output (of a failed job the status of its RayJob has the last
20,000 characters, Ray 2.60), and what leads to them."""
VIEWING = tuple(right for right in RIGHTS if right.verb in ("get", "list") and right.resource not in HIDDEN)
"""The rights of a member who only looks."""
ROLES: dict[str, tuple[str, tuple[Right, ...]]] = {"work": (NAME, RIGHTS), "look": (VIEWER, VIEWING)}
"""What members may do: the name of the Role, and its rights."""


def team_documents(team: Team) -> list[Document]:
    """All documents, in the order in which they are applied: the namespace first."""
    parts = [_namespace(team), *_roles(team), _isolation(team), _quota(team), _limits(team)]
    return parts if team.queue is None else [*parts, *_queues(team, team.queue)]


def amounts(team: Team) -> dict[str, tuple[int, int]]:
    """The share of each resource, and what may be borrowed beyond it: GPUs, thousandths of CPUs, bytes."""
    borrowed = team.queue.borrow if team.queue else 0
    factor = borrowed / team.gpus if borrowed else 0.0
    found = {team.gpu_resource: (team.gpus, borrowed)}
    if team.cpu:
        found["cpu"] = (share := round(cpus(team.cpu) * 1000), round(share * factor))
    if team.memory:
        found["memory"] = (share := size(team.memory), round(share * factor / UNITS["Mi"]) * UNITS["Mi"])
    return found


def _quantity(resource: str, amount: int) -> str:
    """An amount as Kubernetes writes it."""
    if resource == "cpu":
        return f"{amount}m"
    unit = next((unit for unit in ("Ti", "Gi", "Mi") if amount and amount % UNITS[unit] == 0), "")
    return f"{amount // UNITS[unit]}{unit}" if unit else str(amount)


def _document(team: Team, kind: str, version: str, name: str, here: bool = True, **rest: Any) -> Document:
    labels = {MANAGED_BY: MANAGER, TEAM_LABEL: team.name}
    metadata = {"name": name, **({"namespace": team.place} if here else {}), "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def _namespace(team: Team) -> Document:
    document = _document(team, "Namespace", "v1", team.place, here=False)
    document["metadata"]["labels"][ENFORCE] = team.pod_security
    for period, limit in (team.budget.limits if team.budget else {}).items():
        document["metadata"]["labels"][BUDGETS[period]] = str(limit)
    return document


def _roles(team: Team) -> list[Document]:
    """A Role for each thing that members may do, and its binding, also where it has none: who has left loses the right."""
    found = []
    for may, (name, rights) in ROLES.items():
        subjects = [_subject(member) for member in team.members if member.may == may]
        found.append(_document(team, "Role", f"{RBAC}/v1", name, rules=granting(rights)))
        reference = {"apiGroup": RBAC, "kind": "Role", "name": name}
        found.append(_document(team, "RoleBinding", f"{RBAC}/v1", name, roleRef=reference, subjects=subjects))
    return found


def _subject(member: Member) -> Document:
    if member.service_account:
        namespace, _, name = member.service_account.partition("/")
        return {"kind": "ServiceAccount", "namespace": namespace, "name": name}
    kind = "User" if member.user else "Group"
    return {"apiGroup": RBAC, "kind": kind, "name": member.user or member.group}


def _isolation(team: Team) -> Document:
    """No pod of the namespace is reached but as a policy of its own allows: that of a cluster opens its dashboard."""
    spec = {"podSelector": {}, "policyTypes": ["Ingress"]}
    return _document(team, "NetworkPolicy", "networking.k8s.io/v1", "team", spec=spec)


def _quota(team: Team) -> Document:
    """The most that all pods may request, those beside the queue included: the share, and what may be borrowed."""
    hard = {f"requests.{name}": _quantity(name, share + borrowed) for name, (share, borrowed) in amounts(team).items()}
    return _document(team, "ResourceQuota", "v1", "team", spec={"hard": hard})


def _limits(team: Team) -> Document:
    """The budget for the recorder beside each head, also where there is none: what it stopped before may run then."""
    limits = team.budget.enforced if team.budget else {}
    return _document(team, "ConfigMap", "v1", TEAM_BUDGET, data={TEAM_LIMITS: json.dumps(limits)})


def _queues(team: Team, queue: Queue) -> list[Document]:
    resources: list[Document] = []
    for name, (share, borrowed) in amounts(team).items():
        limit = {"borrowingLimit": _quantity(name, borrowed)} if queue.cohort else {}
        resources.append({"name": name, "nominalQuota": _quantity(name, share), **limit})
    spec: Document = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": team.place}},
        "queueingStrategy": "BestEffortFIFO",
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [
            {"coveredResources": [*amounts(team)], "flavors": [{"name": queue.flavor, "resources": resources}]},
        ],
    }
    if queue.cohort:
        spec["cohort"] = queue.cohort
        # What a team has lent comes back when it needs it.
        spec["preemption"]["reclaimWithinCohort"] = "Any"
    flavor = _document(team, "ResourceFlavor", KUEUE, queue.flavor, here=False, spec={})
    del flavor["metadata"]["labels"][TEAM_LABEL]  # of all teams
    return [
        flavor,
        _document(team, "ClusterQueue", KUEUE, team.name, here=False, spec=spec),
        _document(team, "LocalQueue", KUEUE, queue.name, spec={"clusterQueue": team.name}),
    ]
