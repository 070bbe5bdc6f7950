"""Checks of a profile against a Kubernetes cluster, before anything is created or sent."""

from heliostat.cluster.diagnosis import fit
from heliostat.cluster.diagnosis.observe import Observer
from heliostat.cluster.documents.manifests import unknown_to
from heliostat.cluster.errors import NotFound
from heliostat.cluster.kube.api import Api
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.profile import Profile
from heliostat.errors import NotComing, UserError


def check_claim(profile: Profile, kube: KubeRay) -> None:
    """Raise `UserError` if the claim does not exist, or only one node can mount it."""
    storage = profile.storage
    if not storage.claim:
        return
    claim = kube.objects("PersistentVolumeClaim").find(storage.claim)
    if claim is None and not storage.size:
        raise UserError(
            f"storage.claim is {storage.claim}, which does not exist in namespace {kube.api.namespace}",
            "set storage.size so that it is created, or create it",
        )
    modes = claim["spec"].get("accessModes", []) if claim else ["ReadWriteMany"]
    if "ReadWriteMany" not in modes:
        raise UserError(
            f"storage.claim is {storage.claim}, which only one node can mount ({', '.join(modes)})",
            "use a claim with access mode ReadWriteMany (NFS, a cloud's file store), or storage.uri",
        )


def check_queue(profile: Profile, api: Api) -> None:
    """Raise `UserError` if the queue does not exist: Kueue reports nothing then, and waits."""
    queue = profile.queue
    if not queue:
        return
    try:
        version = api.kueue
    except NotFound:
        raise UserError(f"queue is {queue}, but this Kubernetes has no Kueue", "remove queue, or install Kueue") from None
    try:
        api.request("GET", f"/apis/{version}/namespaces/{api.namespace}/localqueues/{queue}")
    except NotFound:
        raise UserError(
            f"queue is {queue}, but namespace {api.namespace} has no such local queue",
            f"correct queue: kubectl get localqueues -n {api.namespace} lists them",
        ) from None


def check_head(profile: Profile, observer: Observer) -> None:
    """Raise `UserError` if no node can hold the head, unless nodes are added automatically."""
    if profile.node_autoscaling:
        return  # a large enough node may be added
    nodes, head = observer.nodes(), profile.head
    for finding in fit.on_nodes(fit.shapes(profile)[:1], nodes or [], ""):
        if nodes and finding.state == "problem":
            raise UserError(f"head.cpu is {head.cpu} and head.memory {head.memory}; {finding.what}", finding.fix)


def check_image(profile: Profile, version: str) -> None:
    """Raise `NotComing` if the Ray version of a cluster's image differs from its profile."""
    if version != profile.ray_version:
        raise NotComing(
            f"the image {profile.image} has Ray {version}, but ray_version is {profile.ray_version}",
            f"set ray_version: {version} in the profile, or use an image with {profile.ray_version}",
        )


def check_operator(profile: Profile, features: frozenset[str]) -> None:
    """Raise `UserError` for keys that this KubeRay would ignore silently."""
    for key, (value, what, instead) in unknown_to(profile, features).items():
        raise UserError(f"{key} is {value}, but this KubeRay has no {what}", f"upgrade KubeRay to 1.7, or {instead}")
