"""Who owns what: objects of other profiles and programs, and the fields of a RayCluster that the autoscaler and Kueue own."""

import copy
from typing import Any

from heliostat.cluster.names import CLUSTER_LABEL, MANAGED_BY, QUEUE_LABEL, TEAM_LABEL, Document

AUTOSCALER = "python-requests"
"""The field manager of Ray's autoscaler (Ray 2.60): it sets ``replicas``, and owns the list of worker groups from then on."""
KUEUE = "kueue"
"""The field manager of Kueue (0.15); what it has set is carried over, too."""
OWNED = ("replicas", "scaleStrategy")
"""The fields of a worker group that the autoscaler owns."""


def is_ours(live: Document, document: Document) -> bool:
    """Whether a live object was made for the same profile or team as a document with its name; a claim may be of any profile.

    A document without our labels, such as one of a program that uses the client, is not compared.
    """
    wanted, labels = (each["metadata"].get("labels") or {} for each in (document, live))
    key = next((label for label in (CLUSTER_LABEL, TEAM_LABEL) if label in wanted), MANAGED_BY)
    return key not in wanted or labels.get(key) == wanted[key]


def is_unclaimed(live: Document) -> bool:
    """Whether an object belongs to no profile and no team, so that one may take it over if the user says so.

    A RayCluster that a RayJob or a RayService has made belongs to that, which deletes it.
    """
    metadata = live["metadata"]
    owned = live.get("kind") == "RayCluster" and metadata.get("ownerReferences")
    return not owned and not {CLUSTER_LABEL, TEAM_LABEL} & (metadata.get("labels") or {}).keys()


def contains(live: Any, wanted: Any) -> bool:
    """Whether a live object has everything that a document has; the API server adds defaults."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(key in live and contains(live[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(contains, live, wanted))
    return bool(live == wanted)


def owner_of(live: Document) -> str:
    """Who has made an object, as a clause for a message; empty if it does not show."""
    labels = live["metadata"].get("labels") or {}
    if owner := labels.get(CLUSTER_LABEL) or labels.get(TEAM_LABEL):
        return f"of {owner}"
    makers = [fields["manager"] for fields in live["metadata"].get("managedFields", []) if fields.get("manager")]
    return f"made by {makers[0]}" if makers else ""


def carried_over(document: Document, live: Document | None) -> Document:
    """Add what the autoscaler and Kueue have set in the live object, pinned to its resource version.

    An apply replaces the whole list of worker groups, where an absent ``replicas`` means 0.
    """
    if live is None:
        return document
    body = copy.deepcopy(document)
    body["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
    if document["kind"] != "RayCluster":
        return body
    live_groups = _groups(live)
    for name, group in _groups(body).items():
        current = live_groups.get(name, {})
        if document["spec"].get("enableInTreeAutoscaling"):
            group |= {key: current[key] for key in OWNED if key in current}
        if QUEUE_LABEL in document["metadata"].get("labels", {}) and "template" in current:
            _keep_admission(group["template"], current["template"])
    return body


def _groups(cluster: Document) -> dict[str, Document]:
    """The groups of a cluster by name; ``head`` is reserved for the head."""
    spec = cluster["spec"]
    workers = {group["groupName"]: group for group in spec.get("workerGroupSpecs", [])}
    return {"head": spec["headGroupSpec"], **workers} if "headGroupSpec" in spec else workers


def _keep_admission(template: Document, live: Document) -> None:
    """Keep what Kueue (0.17) adds to a template on admission: labels, nodes of the flavor, a gate of pods that wait.

    It removes them when it suspends the cluster, and suspends a cluster without them at once.
    """
    metadata, was = template.setdefault("metadata", {}), live.get("metadata", {})
    for kind in ("labels", "annotations"):
        if own := {key: value for key, value in (was.get(kind) or {}).items() if "kueue.x-k8s.io/" in key}:
            metadata[kind] = {**own, **metadata.get(kind, {})}
    spec, was = template["spec"], live["spec"]
    if selector := {**was.get("nodeSelector", {}), **spec.get("nodeSelector", {})}:
        spec["nodeSelector"] = selector
    if gates := was.get("schedulingGates"):
        spec["schedulingGates"] = gates
    if added := [each for each in was.get("tolerations", []) if each not in spec.get("tolerations", [])]:
        spec["tolerations"] = [*spec.get("tolerations", []), *added]


def decided(document: Document) -> Any:
    """An object without its status, the autoscaler's fields and its metadata but the labels: programs change annotations."""
    spec = copy.deepcopy({key: value for key, value in document.items() if key not in ("status", "metadata")})
    for group in (spec.get("spec") or {}).get("workerGroupSpecs", []):
        for key in OWNED:
            group.pop(key, None)
    # A profile does not decide whether a cluster is suspended.
    (spec.get("spec") or {}).pop("suspend", None)
    return {**spec, "labels": document["metadata"].get("labels")}


def only_with_carried(message: str) -> bool:
    """Whether an apply conflicts only with the managers whose fields are carried over.

    The message has a line for each: ``conflict with "MANAGER" using VERSION: FIELD``, or for several fields a list.
    """
    managers = {part.split('"')[1] for part in message.split("conflict")[1:] if "with " in part and '"' in part}
    return bool(managers) and managers <= {AUTOSCALER, KUEUE}
