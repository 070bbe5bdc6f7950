"""Fields of a RayCluster that the autoscaler and Kueue own: what an apply carries over, and what a comparison leaves out."""

import copy
from typing import Any

from heliostat.cluster.names import QUEUE_LABEL, Document

AUTOSCALER = "python-requests"
"""As whom Ray's autoscaler patches (Ray 2.60): it sets ``replicas``, and owns the whole list of worker groups from then on."""
KUEUE = "kueue"
"""As whom Kueue (0.15) writes; what it has set is carried over, as what the autoscaler has."""
OWNED = ("replicas", "scaleStrategy")
"""What belongs to the autoscaler in a worker group."""


def carried_over(document: Document, live: Document | None) -> Document:
    """A document with what the autoscaler and Kueue have set in the live object, and only valid for that version of it.

    An apply replaces the whole list of worker groups, and an absent ``replicas`` means 0 then.
    """
    if live is None:
        return document
    body = copy.deepcopy(document)
    body["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
    if document["kind"] != "RayCluster":
        return body
    live_groups = _groups(live)
    for name, group in _groups(body).items():
        there = live_groups.get(name, {})
        if document["spec"].get("enableInTreeAutoscaling"):
            group |= {key: there[key] for key in OWNED if key in there}
        if QUEUE_LABEL in document["metadata"].get("labels", {}) and "template" in there:
            _admitted(group["template"], there["template"])
    return body


def _groups(cluster: Document) -> dict[str, Document]:
    """The groups of a cluster by name; the head's is ``head``, which no other may have."""
    spec = cluster["spec"]
    workers = {group["groupName"]: group for group in spec.get("workerGroupSpecs", [])}
    return {"head": spec["headGroupSpec"], **workers} if "headGroupSpec" in spec else workers


def _admitted(template: Document, there: Document) -> None:
    """Keep what Kueue (0.15) adds to a template when it admits a cluster: its own marks, and the nodes of the flavor.

    It takes them away again when it suspends the cluster; without them it would do that at once.
    """
    metadata, was = template.setdefault("metadata", {}), there.get("metadata", {})
    for kind in ("labels", "annotations"):
        if marks := {key: value for key, value in (was.get(kind) or {}).items() if "kueue.x-k8s.io/" in key}:
            metadata[kind] = {**marks, **metadata.get(kind, {})}
    spec, was = template["spec"], there["spec"]
    if selector := {**was.get("nodeSelector", {}), **spec.get("nodeSelector", {})}:
        spec["nodeSelector"] = selector
    if added := [each for each in was.get("tolerations", []) if each not in spec.get("tolerations", [])]:
        spec["tolerations"] = [*spec.get("tolerations", []), *added]


def decided(document: Document) -> Any:
    """What somebody has decided about an object: all but its status, the autoscaler's part and the books of the API server."""
    spec = copy.deepcopy({key: value for key, value in document.items() if key not in ("status", "metadata")})
    for group in (spec.get("spec") or {}).get("workerGroupSpecs", []):
        for key in OWNED:
            group.pop(key, None)
    # Suspending and waking change nothing that a profile decides.
    (spec.get("spec") or {}).pop("suspend", None)
    return {**spec, "labels": document["metadata"].get("labels")}


def only_with_carried(message: str) -> bool:
    """Whether a conflict of an apply is with nobody but those whose part is carried over.

    The message has a line for each: ``conflict with "MANAGER" using VERSION: FIELD``, or for several fields a list.
    """
    managers = {part.split('"')[1] for part in message.split("conflict")[1:] if "with " in part and '"' in part}
    return bool(managers) and managers <= {AUTOSCALER, KUEUE}
