"""The rights that heliostat's commands need in a namespace, and what each is for."""

from dataclasses import dataclass

from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile

NAME = "heliostat-user"
USERS = "heliostat-users"
"""The default group of users in the binding."""
RBAC = "rbac.authorization.k8s.io"
"""The API group of roles and their bindings."""


@dataclass(frozen=True)
class Right:
    """A verb on objects of one kind."""

    group: str
    resource: str
    """The plural of a kind, or a subresource such as ``pods/log``."""
    verb: str
    why: str
    """What it is needed for."""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


RIGHTS = tuple(
    Right(group, resource, verb, why)
    for group, resource, verbs, why in (
        # An apply is a patch, and of a new object also a create; heliostat gets the live object first.
        ("ray.io", "rayclusters", "get create patch", "start, resume and show a cluster"),
        ("ray.io", "rayclusters", "delete", "delete a cluster"),
        ("ray.io", "rayclusters", "list", "check that KubeRay's operator works (doctor)"),
        ("ray.io", "rayjobs", "get create patch delete", "run a job on its own cluster (--ephemeral)"),
        ("ray.io", "rayservices", "get list create patch delete", "serve a model (serve --on)"),
        ("", "configmaps", "get create patch delete", "start and delete a cluster, with the files of its head"),
        ("networking.k8s.io", "networkpolicies", "get create patch delete", "isolate a cluster from other pods"),
        ("", "persistentvolumeclaims", "get create patch", "create the claim for the storage of runs"),
        ("", "pods", "list", "show nodes, and explain problems"),
        ("", "pods", "delete", "replace pods after a change of the profile"),
        ("", "pods/log", "get", "show the last lines of a pod that crashed"),
        # A port-forward is opened by a GET; since Kubernetes 1.35 that also needs the right to create.
        ("", "pods/portforward", "get create", "open a session: the dashboard and Ray Client on this machine"),
        # The verb follows from the HTTP method of a request to the dashboard: GET, POST and PUT.
        ("", "services/proxy", "get", "show jobs, their output, and the usage of nodes"),
        ("", "services/proxy", "create", "submit and stop jobs"),
        ("", "services/proxy", "update", "upload a job's code"),
        # For the whole namespace: the operator chooses the name of an ephemeral cluster, which is also its secret's.
        ("", "secrets", "get", "read a cluster's token for its dashboard"),
        ("", "secrets", "create patch delete", "give variables to a job with its own cluster, or a scheduled one (--env)"),
        ("", "events", "list", "explain problems that are reported by events only"),
        ("batch", "cronjobs", "get list create patch delete", "create, list and delete scheduled runs"),
        ("ray.io", "rayjobs", "list", "delete scheduled runs, including a running one"),
        # The launcher of scheduled runs has its own account and role; Kubernetes lets a user grant no right that he lacks.
        ("", "serviceaccounts", "get create patch delete", "create and delete scheduled runs"),
        (RBAC, "roles", "get create patch delete", "create and delete scheduled runs"),
        (RBAC, "rolebindings", "get create patch delete", "create and delete scheduled runs"),
        ("kueue.x-k8s.io", "localqueues", "get", "check that the queue of a profile exists, and why it admits nothing"),
        ("kueue.x-k8s.io", "workloads", "list", "say what waits in a queue, for what, and behind what"),
        ("", "resourcequotas", "list", "check how many workers fit into the quota (doctor)"),
        # The right to get a namespace can be granted in it: no cluster-wide right is needed.
        ("", "namespaces", "get", "check the namespace's pod-security level (doctor), and the budget of its team"),
    )
    for verb in verbs.split()
)
"""All rights that are needed. Cluster-wide ones, to read nodes and storage classes, are optional."""
MONITORS = tuple(
    Right("monitoring.coreos.com", "podmonitors", verb, "have Prometheus scrape a cluster")
    for verb in ("get", "create", "patch", "delete")
)
"""Rights for a kind that may not be there; a user without them gets the annotations of pods instead."""


def role(profile: Profile, users: str = USERS) -> list[Document]:
    """A Role with exactly these rights, and its binding to a group of users, in the profile's namespace."""
    metadata: Document = {"name": NAME, "labels": {"app.kubernetes.io/managed-by": "heliostat"}}
    if profile.namespace:
        metadata["namespace"] = profile.namespace
    note = {"kubernetes.io/description": "Who may use heliostat here: set subjects to your groups, users or service accounts."}
    return [
        {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": granting((*RIGHTS, *MONITORS))},
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": {**metadata, "annotations": note},
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": NAME},
            "subjects": [{"apiGroup": RBAC, "kind": "Group", "name": users}],
        },
    ]


def granting(rights: tuple[Right, ...]) -> list[Document]:
    """The shortest list of rules for a Role that grants these rights."""
    verbs: dict[tuple[str, str], list[str]] = {}
    for right in rights:
        verbs.setdefault((right.group, right.resource), []).append(right.verb)
    resources: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (group, resource), allowed in verbs.items():
        resources.setdefault((group, tuple(allowed)), []).append(resource)
    return [{"apiGroups": [group], "resources": names, "verbs": list(allowed)} for (group, allowed), names in resources.items()]
