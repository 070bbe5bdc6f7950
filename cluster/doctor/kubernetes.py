"""Checks of Kubernetes for what every profile needs.

A check is a function that yields findings, and a row of a table.
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from itertools import groupby

from heliostat.cluster.diagnosis import fit
from heliostat.cluster.diagnosis.checks import check_operator
from heliostat.cluster.diagnosis.findings import Finding, Found, ok, problem, unknown
from heliostat.cluster.diagnosis.snapshot import Snapshot, pod_ready
from heliostat.cluster.errors import Forbidden
from heliostat.cluster.kube.conditions import observed
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.kube.rights import missing
from heliostat.cluster.names import ENFORCE, POD_MONITOR, Document
from heliostat.cluster.profile import Profile, keys_of_pods
from heliostat.cluster.targets.kubernetes import KubernetesCluster

OLDEST = (1, 29)
ANSWER_SECONDS = 5.0
"""Timeout of the first response of the API server, or of a dashboard behind it."""
OBSERVE_SECONDS = 30.0
"""Seconds in which KubeRay's operator must process a change."""


class Site:
    """A namespace with the objects of a profile; each is requested once, by the first check that needs it."""

    def __init__(self, kube: KubeRay, profile: Profile | None) -> None:
        self.kube, self.api = kube, kube.api
        self.given = profile

    @property
    def profile(self) -> Profile:
        assert self.given is not None
        return self.given

    @cached_property
    def cluster(self) -> KubernetesCluster:
        return KubernetesCluster(self.profile, self.kube)

    @cached_property
    def shapes(self) -> list[fit.Shape]:
        return fit.shapes(self.profile)

    @cached_property
    def nodes(self) -> list[Document]:
        return self.all(self.api.path("Node"))

    @cached_property
    def pods(self) -> list[Document]:
        """All pods of the namespace, including those of others."""
        return self.all(self.api.path("Pod"))

    @cached_property
    def snapshot(self) -> Snapshot:
        return self.cluster.snapshot()

    @property
    def head_is_ready(self) -> bool:
        return self.snapshot.head is not None and pod_ready(self.snapshot.head)

    def all(self, path: str, selector: str = "") -> list[Document]:
        """The objects at a path of the API server."""
        found: list[Document] = self.api.request("GET", path, query={"labelSelector": selector} if selector else None)["items"]
        return found

    def events(self, about: Document) -> list[Document]:
        """The events about one object, of the last hour."""
        path = self.api.path("Event", namespace=about["metadata"]["namespace"])
        query = {"fieldSelector": f"involvedObject.uid={about['metadata']['uid']}"}
        found: list[Document] = self.api.request("GET", path, query=query)["items"]
        return found


def _kubeconfig(site: Site) -> Found:
    yield ok(f"context {site.api.context}: {site.api.server}, namespace {site.api.namespace}")


def _server(site: Site) -> Found:
    version = site.api.request("GET", "/version", timeout=ANSWER_SECONDS)["gitVersion"]
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
        yield problem(f"Kubernetes {version} is too old", f"upgrade it to {OLDEST[0]}.{OLDEST[1]} or later")
        return
    review = site.api.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    yield ok(f"Kubernetes {version} authenticates you as {review['status']['userInfo']['username']}")


def _kuberay(site: Site) -> Found:
    features = site.api.features - {POD_MONITOR}
    if features:
        yield ok(f"KubeRay 1.7 or later: its schema has {', '.join(sorted(features))}")
    else:
        yield ok("KubeRay before 1.7: its schema has no priority, tlsOptions and networkPolicy")
    if site.given:
        check_operator(site.profile, features)


def _operator(site: Site) -> Found:
    """The operator may run outside of the cluster, or its pods may be hidden; then its work shows whether it runs."""
    with suppress(Forbidden):
        for deployment in site.all("/apis/apps/v1/deployments", "app.kubernetes.io/name in (kuberay-operator, kuberay)"):
            name, place = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
            image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
            if deployment.get("status", {}).get("readyReplicas"):
                yield ok(f"{image} runs in namespace {place}")
            else:
                yield problem(f"{image} is not ready in namespace {place}", f"kubectl describe deployment {name} -n {place}")
            return
    yield _works(site)


def _works(site: Site) -> Finding:
    try:
        clusters = site.all("/apis/ray.io/v1/rayclusters")
    except Forbidden:
        clusters = site.kube.clusters.list()
    for cluster in clusters:
        late = not observed(cluster) and time.time() - _changed(cluster) > OBSERVE_SECONDS
        # The operator does not process an invalid one, but reports an event.
        if late and not site.events(cluster):
            return problem(
                f"KubeRay's operator has not processed RayCluster {_full_name(cluster)}",
                "check that it runs: kubectl get pods -A -l app.kubernetes.io/name=kuberay-operator",
            )
    for cluster in filter(observed, clusters):
        return ok(f"it has processed the latest change of RayCluster {_full_name(cluster)}")
    return unknown(
        "no pod of it is visible, and no RayCluster that it has processed",
        "kubectl get deployments -A | grep kuberay; or heliostat up, which fails within seconds without an operator",
    )


def _changed(document: Document) -> float:
    """The time of the last change of an object, by the API server's clock."""
    times = [field["time"] for field in document["metadata"].get("managedFields", []) if "time" in field]
    return datetime.fromisoformat(max([*times, document["metadata"]["creationTimestamp"]])).timestamp()


def _full_name(document: Document) -> str:
    return f"{document['metadata']['name']} in namespace {document['metadata']['namespace']}"


def _rights(site: Site) -> Found:
    lacking = missing(site.api)
    profile = site.given.name if site.given else "PROFILE"
    for (resource, why), rights in groupby(lacking, lambda right: (right.resource, right.why)):
        verbs = ", ".join(right.verb for right in rights)
        yield problem(
            f"no right to {verbs} {resource}, which is needed to {why}", f"ask for it: heliostat render {profile} --rbac"
        )
    if not lacking:
        yield ok("all rights that heliostat's commands need")


def _namespace(site: Site) -> Found:
    name = site.api.namespace
    namespace = site.api.request("GET", site.api.path("Namespace", name))
    if namespace["status"]["phase"] == "Terminating":
        yield problem(f"namespace {name} is being deleted", "use another one, or wait and create it again")
        return
    level = namespace["metadata"].get("labels", {}).get(ENFORCE, "privileged")
    own = site.given is not None and keys_of_pods(site.given)
    fit_all = "the check pods tries those of the profile" if own else "heliostat's pods fit all levels"
    yield ok(f"{name}; its pod-security level is {level}, and {fit_all}")


def _dns(site: Site) -> Found:
    """Workers resolve the name of their head, and autoscalers that of the API server."""
    for service in site.all("/api/v1/namespaces/kube-system/services", "k8s-app=kube-dns"):
        yield ok(f"service {service['metadata']['name']} in namespace kube-system")
        return
    for pod in site.pods:
        if pod["metadata"].get("labels", {}).get("ray.io/node-type") == "worker" and pod_ready(pod):
            yield ok(f"the worker {pod['metadata']['name']} has resolved its head")
            return
    yield unknown(
        "no service in namespace kube-system has the label k8s-app=kube-dns",
        "kubectl run dns --rm -it --restart=Never --image=busybox -- nslookup kubernetes.default",
    )


CHECKS: dict[str, Callable[[Site], Found]] = {
    "kubeconfig": _kubeconfig,
    "API server": _server,
    "KubeRay": _kuberay,
    "operator": _operator,
    "rights": _rights,
    "namespace": _namespace,
    "DNS": _dns,
}
