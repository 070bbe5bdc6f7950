"""A team on the Kubernetes that KUBECONFIG names: what an apply of its file would change, and what it has now."""

from dataclasses import dataclass

from heliostat.cluster.documents.ownership import is_ours
from heliostat.cluster.documents.teams import team_documents
from heliostat.cluster.errors import Forbidden, NotFound
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.kube.owners import live_objects
from heliostat.cluster.kube.steps import Step, creation, step_of
from heliostat.cluster.names import TEAM_LABEL, Document
from heliostat.cluster.team import Team
from heliostat.errors import UserError


@dataclass(frozen=True)
class Use:
    """What a team has of one resource, as Kubernetes writes quantities."""

    resource: str
    used: str
    """Of all pods of the namespace."""
    most: str
    """The share, with what may be borrowed."""


@dataclass(frozen=True)
class Standing:
    """What a team has now."""

    uses: list[Use]
    admitted: int | None
    """Clusters and jobs that the queue has admitted; None without a queue, or where it cannot be read."""
    pending: int | None
    """Those that wait in it."""


def kube_of(team: Team) -> KubeRay:
    """The client for the team's namespace."""
    return KubeRay(namespace=team.place)


def plan(team: Team, kube: KubeRay, adopt: bool = False) -> list[Step]:
    """The steps that an apply takes; the API server checks each by a dry run, once the namespace exists.

    Args:
        team: its file.
        kube: of `kube_of`.
        adopt: take over objects that have the same names and belong to no team, such as a namespace that is there.

    Raises:
        UserError: Kueue is not there, a queue that the file has no more is, or objects of other owners have the same names;
            all are listed.
    """
    if team.queue:
        try:
            _ = kube.api.kueue
        except NotFound:
            raise UserError(
                f"the team {team.name} has a queue, but this Kubernetes has no Kueue",
                "remove queue: then the share is a quota of the namespace; or install Kueue",
            ) from None
    elif _own({"kind": "ClusterQueue", "metadata": {"name": team.name, "labels": {TEAM_LABEL: team.name}}}, kube):
        raise UserError(
            f"the team {team.name} has no queue, but ClusterQueue {team.name} is still there: it admits and lends the "
            "share beside the quota",
            f"kubectl delete clusterqueue {team.name}, which waits for what runs in it; or keep queue",
        )
    wanted = [document for document in team_documents(team) if not _is_shared(document, kube)]
    fix = f"set another name or namespace, or take over what no team has: heliostat team apply {team.name} --adopt"
    found = live_objects(kube, team.name, wanted, fix, adopt)
    new = found[0] is None  # in a namespace that does not exist, nothing can be tried
    return [
        creation(document) if new and "namespace" in document["metadata"] else step_of(kube, document, live, adopt)
        for document, live in zip(wanted, found, strict=True)
    ]


def _is_shared(document: Document, kube: KubeRay) -> bool:
    """Whether a document is of a flavor that exists: it is used as it is."""
    return (
        document["kind"] == "ResourceFlavor" and kube.objects("ResourceFlavor").find(document["metadata"]["name"]) is not None
    )


def _own(document: Document, kube: KubeRay) -> Document | None:
    """The live object of a document, if there is one and it is of this team."""
    live = kube.objects(document["kind"]).find(document["metadata"]["name"])
    return live if live is not None and is_ours(live, document) else None


def standing(team: Team, kube: KubeRay) -> Standing:
    """What a team uses now.

    Raises:
        UserError: it was never applied.
    """
    documents = {document["kind"]: document for document in team_documents(team)}
    live = _own(documents["ResourceQuota"], kube)
    if live is None:
        raise UserError(f"namespace {team.place} has no team {team.name}", f"heliostat team apply {team.name}")
    status = live.get("status") or {}
    hard, used = status.get("hard") or live["spec"]["hard"], status.get("used") or {}
    uses = [Use(name.removeprefix("requests."), used.get(name, "unknown"), most) for name, most in sorted(hard.items())]
    queue: Document = {}
    if team.queue:
        try:
            queue = (_own(documents["ClusterQueue"], kube) or {}).get("status") or {}
        except Forbidden:  # a member may not read what is of the whole cluster
            queue = {}
    return Standing(uses, queue.get("reservingWorkloads"), queue.get("pendingWorkloads"))
