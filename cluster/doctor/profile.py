"""Checks of the namespace for what a profile needs, and of its cluster if it runs."""

import platform
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from heliostat.cluster.diagnosis import fit
from heliostat.cluster.diagnosis.checks import check_claim
from heliostat.cluster.diagnosis.container_problems import PULL
from heliostat.cluster.diagnosis.findings import Finding, Found, ok, problem, unknown
from heliostat.cluster.diagnosis.problems import problems
from heliostat.cluster.diagnosis.refusals import fix_of_refusal
from heliostat.cluster.diagnosis.snapshot import group_of
from heliostat.cluster.diagnosis.wait import status_line
from heliostat.cluster.doctor.kubernetes import ANSWER_SECONDS, Site
from heliostat.cluster.documents.manifests import documents, templates
from heliostat.cluster.errors import Forbidden, Invalid, NotAdmitted, NotFound, Unauthorized, Unreachable
from heliostat.cluster.names import Document
from heliostat.cluster.profile import keys_of_pods, volumes
from heliostat.cluster.ray_version import differing, installed_ray
from heliostat.wording import agreeing, counted

PROGRESS_SECONDS = 60.0
"""A problem that may last longer than this is work in progress, such as a node that starts."""
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
ONE_NODE = (
    "ebs.csi.aws.com", "kubernetes.io/aws-ebs", "pd.csi.storage.gke.io", "kubernetes.io/gce-pd", "disk.csi.azure.com",
    "kubernetes.io/azure-disk", "rancher.io/local-path", "k8s.io/minikube-hostpath",
)  # fmt: skip
"""Provisioners of volumes that only one node can mount."""


def _quota(site: Site) -> Found:
    quotas = [quota for quota in site.all(site.api.path("ResourceQuota")) if fit.counts_ours(quota)]
    ended = ("Succeeded", "Failed")
    held = [fit.shape(group_of(pod), pod["spec"]) for pod in site.snapshot.pods if pod["status"]["phase"] not in ended]
    for quota in quotas:
        yield from fit.in_quota(quota, site.shapes, held)
        if "limits.cpu" in quota["spec"].get("hard", {}):
            yield from _cpu_limits(site, quota["metadata"]["name"])
    if not quotas:
        yield ok("none")


def _cpu_limits(site: Site, quota: str) -> Found:
    ranges = site.all(f"/api/v1/namespaces/{site.api.namespace}/limitranges")
    if not any("cpu" in limit.get("default", {}) for each in ranges for limit in each["spec"]["limits"]):
        yield problem(
            f"quota {quota} limits limits.cpu, so pods without a CPU limit are refused, and heliostat's have none",
            "remove limits.cpu from it (requests.cpu is sufficient), or add a LimitRange with a default",
        )


def _nodes(site: Site) -> Found:
    yield from fit.on_nodes(site.shapes, site.nodes, _node_autoscaler(site))


def _node_autoscaler(site: Site) -> str:
    """The node autoscaler of this cluster; empty if none is detected."""
    if any(group["name"] == "karpenter.sh" for group in site.api.request("GET", "/apis")["groups"]):
        return "Karpenter"
    with suppress(NotFound, Forbidden):
        site.api.request("GET", site.api.path("ConfigMap", "cluster-autoscaler-status", "kube-system"))
        return "the cluster autoscaler"
    return ""


def _storage(site: Site) -> Found:
    storage = site.profile.storage
    if not storage.claim:
        yield ok(f"{storage.uri}; pods access it directly")
        return
    check_claim(site.profile, site.kube)
    claim = site.kube.objects("PersistentVolumeClaim").find(storage.claim)
    if claim and claim["status"]["phase"] == "Bound":
        yield ok(f"claim {storage.claim} is bound, {claim['status']['capacity']['storage']}, and all nodes can mount it")
        return
    if claim and claim["status"]["phase"] == "Lost":
        yield problem(f"claim {storage.claim} has lost its volume", "restore the volume, or use another claim")
        return
    wanted = claim["spec"].get("storageClassName") if claim else storage.storage_class
    yield from _storage_class(site, wanted, f"claim {storage.claim} {'waits for a volume' if claim else 'will be created'}")


def _storage_class(site: Site, name: str | None, claim: str) -> Found:
    classes = {each["metadata"]["name"]: each for each in site.all(site.api.path("StorageClass"))}
    defaults = [n for n, each in classes.items() if each["metadata"].get("annotations", {}).get(DEFAULT_CLASS) == "true"]
    chosen = name or next(iter(defaults), "")
    listed = f"existing ones: {', '.join(classes) or 'none'}"
    if not chosen:
        yield problem(f"{claim}, but no storage class is the default one", f"set storage.storage_class; {listed}")
    elif chosen not in classes:
        yield problem(f"{claim} of storage class {chosen}, which does not exist", f"correct storage.storage_class; {listed}")
    elif (provisioner := classes[chosen]["provisioner"]) in ONE_NODE:
        yield problem(
            f"{claim} of storage class {chosen}, but volumes of {provisioner} can be mounted by one node only",
            f"set storage.storage_class to one for many nodes (NFS, a cloud's file store), or use storage.uri; {listed}",
        )
    else:
        yield ok(f"{claim} of storage class {chosen} ({provisioner})")


def _image(site: Site) -> Found:
    """Nothing is pulled: pods and nodes show whether the image has been pulled before."""
    image, users = site.profile.image, []
    for pod in site.pods:
        for state, asked_for in _containers(pod):
            waiting = state.get("waiting") or {}
            if asked_for == image and waiting.get("reason") in PULL:
                yield problem(
                    f"{pod['metadata']['name']} cannot pull {image}: {waiting.get('message') or waiting['reason']}",
                    "correct image in the profile, push it, or name image_pull_secrets",
                )
                return
            users += [pod["metadata"]["name"]] * (asked_for == image and "running" in state)
    if users:
        yield ok(f"{users[0]} runs {image}")
        return
    with suppress(Forbidden):
        known = [[name for each in node["status"].get("images", []) for name in each.get("names", [])] for node in site.nodes]
        if having := sum(any(name == image or name.endswith(f"/{image}") for name in names) for names in known):
            yield ok(f"{having} of {counted(len(known), 'node')} {agreeing(having, 'have')} {image}")
            return
    yield unknown(f"no pod and no node has {image} yet", "heliostat up reports within seconds if it cannot be pulled")


def _containers(pod: Document) -> Iterator[tuple[dict[str, Any], str]]:
    """The state of each container, and its image as the pod asks for it."""
    for kind in ("initContainer", "container"):
        images = {container["name"]: container["image"] for container in pod["spec"].get(f"{kind}s", [])}
        for status in pod["status"].get(f"{kind}Statuses", []):
            yield status.get("state", {}), images[status["name"]]


def _secrets(site: Site) -> Found:
    pull: list[tuple[str, str, str | None]] = [("image_pull_secrets", name, None) for name in site.profile.image_pull_secrets]
    named = [*pull, *site.profile.secrets_named]
    for place, name, key in named:
        yield in_secret(site.kube.objects("Secret").find(name), place, name, key, site.api.namespace)
    if not named:
        yield ok("none in the profile")


def in_secret(secret: Document | None, place: str, name: str, key: str | None, namespace: str) -> Finding:
    """Whether a Secret has what a profile names: at this place, one key, or keys that are names of environment variables."""
    for_pulls = place == "image_pull_secrets"
    if secret is None:
        kind = "docker-registry" if for_pulls else "generic"
        return problem(
            f"{place} names {name}, but namespace {namespace} does not have this secret",
            f"kubectl create secret {kind} {name} -n {namespace} ..., or correct {place}",
        )
    if for_pulls:
        if "docker" in secret["type"]:
            return ok(f"{name} ({place})")
        return problem(f"{place} names {name}, which is of type {secret['type']}", "make it of type docker-registry")
    keys = sorted(secret.get("data") or {})
    if key:
        if key in keys:
            return ok(f"{key} of {name} ({place})")
        return problem(
            f"{place} names the key {key} of the secret {name}, which has {', '.join(keys) or 'no keys'}",
            f"add the key to the secret, or correct {place}",
        )
    if variables := [each for each in keys if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", each)]:
        return ok(f"{', '.join(variables)} of {name} ({place})")
    return problem(
        f"{place} names {name}, but none of its keys ({', '.join(keys) or 'it has none'}) is the name of a variable",
        f"name the variable in the profile: env: {{NAME: {{secret: {name}, key: {(keys or ['KEY'])[0]}}}}}",
    )


def _pods(site: Site) -> Found:
    """A dry run of each pod passes all admission: accounts, classes, pod security, and what other webhooks want."""
    if not (keys := keys_of_pods(site.profile)):
        return
    claims = site.kube.objects("PersistentVolumeClaim")
    for place, volume in volumes(site.profile):
        if volume.claim and claims.find(volume.claim) is None:
            what = f"{place} names the claim {volume.claim}, which does not exist in namespace {site.api.namespace}"
            yield problem(what, f"create it, or correct {place}")
    for shape, template in zip(site.shapes, templates(site.profile), strict=True):
        meta = {**template["metadata"], "generateName": f"{site.profile.name}-doctor-"}
        pod = {"metadata": meta, "spec": template["spec"]}
        try:
            site.api.request("POST", site.api.path("Pod"), pod, {"dryRun": "All", "fieldValidation": "Strict"})
        except (NotAdmitted, Invalid) as error:
            if "quota" not in error.what:  # another check reports it
                yield problem(f"the API server refuses the pods of {shape.name}: {error.what}", fix_of_refusal(error.what))
        else:
            yield ok(f"the API server accepts the pods of {shape.name} with {', '.join(keys)}")


def _documents(site: Site) -> Found:
    tried = documents(site.profile, site.api.features)
    for document in tried:
        site.kube.objects(document["kind"]).apply(document, force=True, dry_run=True)
    yield ok(f"the API server accepts all of them: {', '.join(document['kind'] for document in tried)}")


def _cluster(site: Site) -> Found:
    snapshot, name = site.snapshot, site.profile.name
    if snapshot.cluster is None:
        yield ok(f"{name} does not exist; heliostat up {name} creates it")
        return
    lasting = [each for each in problems(snapshot, site.profile) if each.patience < PROGRESS_SECONDS or each.crash]
    for each in lasting:
        yield problem(each.what, each.fix)
    if not lasting:
        yield ok(f"{name}: {status_line(problems(snapshot, site.profile), snapshot)}")


def _token(site: Site) -> Found:
    if not site.head_is_ready:
        return
    name = site.profile.name
    try:
        # With access through the API server, but without a token for the dashboard.
        path = f"{site.api.path('Service', f'{name}-head-svc:dashboard')}/proxy/api/version"
        site.api.raw("GET", path, timeout=ANSWER_SECONDS)
    except Unauthorized:
        pass
    except Unreachable as error:
        yield problem(f"the dashboard of {name} does not answer: {error.what}", "heliostat status")
        return
    else:
        yield problem(
            f"the dashboard of {name} requires no token: anyone with access to it can run programs there",
            f"heliostat up {name} --yes, which sets authOptions.mode: token and replaces the pods",
        )
        return
    try:
        site.cluster.dashboard().jobs()
    except (Unauthorized, NotFound) as error:
        yield problem(error.what, f"heliostat down {name}, then up: the token in its Secret is not that of its pods")
    else:
        yield ok("the dashboard accepts the token, and requires one")


def _version(site: Site) -> Found:
    wanted, here = site.profile.ray_version, installed_ray()
    with suppress(Unauthorized, Unreachable, NotFound):  # another check reports these
        if site.head_is_ready and (there := site.cluster.dashboard().version()) != wanted:
            yield problem(
                f"the cluster runs Ray {there}, but ray_version is {wanted}",
                f"set ray_version: {there} and an image with it, then heliostat up {site.profile.name}",
            )
            return
    if here != wanted:
        yield problem(
            f"ray_version is {wanted}, but this machine has Ray {here}: Ray Client needs the same on both sides",
            f"use an image with {here}, and set ray_version: {here}",
        )
    else:
        yield ok(f"Ray {here} here and in the profile{' and in the cluster' if site.head_is_ready else ''}")


def _python(site: Site) -> Found:
    python, here = "", platform.python_version()
    with suppress(Unauthorized, Unreachable, NotFound):  # another check reports these
        python = site.cluster.dashboard().python_version() if site.head_is_ready else ""
    if mismatches := differing(installed_ray(), python) if python else []:
        yield problem(mismatches[0], "use the same minor version of Python here as in the image; jobs do not need that")
    elif python:
        yield ok(f"Python {here} here and {python} in the cluster")


def _policy(site: Site) -> Found:
    if site.snapshot.cluster is None:
        return
    name = site.profile.name
    if site.kube.objects("NetworkPolicy").find(name):
        yield ok(f"{name} exists; whether it is enforced depends on the cluster's network plugin")
    else:
        yield problem(
            f"{name} has no network policy: every pod in the Kubernetes cluster can access its ports",
            f"heliostat up {name} creates it",
        )


CHECKS: dict[str, Callable[[Site], Found]] = {
    "quota": _quota,
    "nodes": _nodes,
    "storage": _storage,
    "image": _image,
    "secrets": _secrets,
    "pods": _pods,
    "documents": _documents,
    "cluster": _cluster,
    "token": _token,
    "Ray": _version,
    "Python": _python,
    "network policy": _policy,
}
