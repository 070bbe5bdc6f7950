"""The rights that heliostat's commands need in a namespace, what each is for, and which of them a user lacks."""

from dataclasses import dataclass

from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile

NAME = "heliostat-user"
USERS = "heliostat-users"
"""The group of users that the binding names, unless another one is given."""
RBAC = "rbac.authorization.k8s.io"
"""The API group of roles and their bindings."""


@dataclass(frozen=True)
class Right:
    """To do something with objects of one kind."""

    group: str
    resource: str
    """The plural of a kind, with a subresource perhaps: ``pods/log``."""
    verb: str
    why: str
    """What fails without it."""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


RIGHTS = tuple(
    Right(group, resource, verb, why)
    for group, resource, verbs, why in (
        # An apply is a patch, and where there is nothing yet a create, too; before it heliostat looks at what there is.
        ("ray.io", "rayclusters", "get create patch", "bring a cluster up, wake it, and see how it is"),
        ("ray.io", "rayclusters", "delete", "take a cluster down"),
        ("ray.io", "rayclusters", "list", "see whether KubeRay's operator works (doctor)"),
        ("ray.io", "rayjobs", "get create patch delete", "run a job on a cluster of its own (--ephemeral)"),
        ("", "configmaps", "get create patch delete", "bring a cluster up and take it down, with the files of its head"),
        ("networking.k8s.io", "networkpolicies", "get create patch delete", "close a cluster to pods that are not its own"),
        ("", "persistentvolumeclaims", "get create patch", "make the claim where runs are kept"),
        ("", "pods", "list", "show nodes, and explain what is wrong"),
        ("", "pods", "delete", "replace pods, where a change of the profile needs that"),
        ("", "pods/log", "get", "show the last lines of a pod that crashed"),
        # A port-forward is opened by a GET; since Kubernetes 1.35 that needs the right to create, too.
        ("", "pods/portforward", "get create", "open a session: the dashboard and Ray Client on this machine"),
        # The verb follows from the HTTP method of a request to the dashboard: GET, POST and PUT.
        ("", "services/proxy", "get", "show jobs, what they print, and how busy nodes are"),
        ("", "services/proxy", "create", "submit and stop jobs"),
        ("", "services/proxy", "update", "upload a job's code"),
        # Of the whole namespace: the operator chooses the name of an ephemeral cluster, which is that of its secret.
        ("", "secrets", "get", "read a cluster's token, without which its dashboard is closed"),
        ("", "events", "list", "explain what is wrong: some faults show nowhere else"),
        ("batch", "cronjobs", "get list create patch delete", "make, list and delete nightly runs"),
        ("ray.io", "rayjobs", "list", "delete nightly runs, also one that runs now"),
        # What starts a nightly run gets an account and a role of its own. Kubernetes lets nobody give more than he has.
        ("", "serviceaccounts", "get create patch delete", "make and delete nightly runs"),
        (RBAC, "roles", "get create patch delete", "make and delete nightly runs"),
        (RBAC, "rolebindings", "get create patch delete", "make and delete nightly runs"),
        ("kueue.x-k8s.io", "localqueues", "get", "see that the queue of a profile is there"),
        ("", "resourcequotas", "list", "tell how many workers the quota has room for (doctor)"),
        # That of a namespace itself belongs to the namespace: no right for the whole cluster is needed.
        ("", "namespaces", "get", "see the namespace's pod-security level (doctor)"),
    )
    for verb in verbs.split()
)
"""All of them. What heliostat reads of the whole cluster, nodes and storage classes, it can do without."""


def role(profile: Profile, users: str = USERS) -> list[Document]:
    """A Role with exactly these rights, and its binding to a group of users, for the profile's namespace."""
    metadata: Document = {"name": NAME, "labels": {"app.kubernetes.io/managed-by": "heliostat"}}
    if profile.namespace:
        metadata["namespace"] = profile.namespace
    note = {
        "kubernetes.io/description": "Who may use heliostat here: put your own groups, users or service accounts in subjects."
    }
    return [
        {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": granting(RIGHTS)},
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": {**metadata, "annotations": note},
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": NAME},
            "subjects": [{"apiGroup": RBAC, "kind": "Group", "name": users}],
        },
    ]


def granting(rights: tuple[Right, ...]) -> list[Document]:
    """The rules of a Role that grants these rights, as few as can be."""
    verbs: dict[tuple[str, str], list[str]] = {}
    for right in rights:
        verbs.setdefault((right.group, right.resource), []).append(right.verb)
    resources: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (group, resource), allowed in verbs.items():
        resources.setdefault((group, tuple(allowed)), []).append(resource)
    return [{"apiGroups": [group], "resources": names, "verbs": list(allowed)} for (group, allowed), names in resources.items()]
