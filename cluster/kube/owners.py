"""The live objects of documents, which must be ours: those of other owners are neither changed nor deleted."""

from collections.abc import Iterable

from heliostat.cluster.documents.ownership import is_ours, is_unclaimed, owner_of
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.names import Document
from heliostat.errors import UserError
from heliostat.wording import agreeing


def live_objects(
    kube: KubeRay, owner: str, documents: Iterable[Document], fix: str, adopt: bool = False
) -> list[Document | None]:
    """The live object of each document, None for one that does not exist.

    Args:
        kube: the namespace.
        owner: the name that the labels of the documents have, of a profile or a team.
        documents: with the kinds and names of the objects.
        fix: what to do if some are of others.
        adopt: whether those that belong to no profile and no team are taken over.

    Raises:
        UserError: objects of other owners have these names; all are listed.
    """
    wanted = list(documents)
    found = [kube.objects(document["kind"]).find(document["metadata"]["name"]) for document in wanted]
    others = [(d["kind"], live) for d, live in zip(wanted, found, strict=True) if live and not is_ours(live, d)]
    others = [(kind, live) for kind, live in others if not (adopt and is_unclaimed(live))]
    if others:
        names = ", ".join(f"{kind} {_described(live)}" for kind, live in others)
        exist, are = (agreeing(len(others), verb) for verb in ("exist", "are"))
        raise UserError(f"{names} {exist}, and {are} not of {owner}; nothing was changed", _fix(kube, others, fix))
    return found


def _described(live: Document) -> str:
    owner = owner_of(live)
    return f"{live['metadata']['name']} ({owner})" if owner else str(live["metadata"]["name"])


def _fix(kube: KubeRay, others: list[tuple[str, Document]], fix: str) -> str:
    """What to do: a claim can be used as it is, a namespace has more than this, other objects are in the way of ours."""
    claims = [live for kind, live in others if kind == "PersistentVolumeClaim"]
    kept = ("PersistentVolumeClaim", "Namespace")
    rest = [f"{kind.lower()}/{live['metadata']['name']}" for kind, live in others if kind not in kept]
    parts = ["remove storage.size from the profile: then the claim is used as it is"] if claims else []
    if not rest and len(claims) < len(others):
        parts.append(fix)
    if rest:
        delete = f"kubectl delete --namespace {kube.api.namespace} {' '.join(rest)}"
        parts.append(f"{fix}; or, if their owner does not need them any more, {delete}")
    return "; ".join(parts)
