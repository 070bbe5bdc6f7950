"""The Secret with a job's own variables, and a profile whose pods read them from it."""

import base64
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

from heliostat.cluster.documents.manifests import metadata
from heliostat.cluster.names import Document
from heliostat.cluster.pod import PodKeys, SecretKey
from heliostat.cluster.profile import Profile

PodsT = TypeVar("PodsT", bound=PodKeys)
NO_VALUES: Mapping[str, str] = MappingProxyType({})


def secret_name(job: str) -> str:
    """The name of a job's Secret; KubeRay gives the job's own name to the Secret with the cluster's token."""
    return f"{job}-env"


def job_secret(profile: Profile, job: str, values: Mapping[str, str]) -> Document:
    """The Secret of a job with its own cluster: a key for each variable."""
    data = {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}
    meta = metadata(profile, secret_name(job))
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": data}


def reading(profile: Profile, job: str, variables: Iterable[str]) -> Profile:
    """The profile with these variables from the job's Secret, before its own values for them."""
    own = {name: SecretKey(secret=secret_name(job), key=name) for name in variables}

    def without(keys: PodsT) -> PodsT:
        return keys.model_copy(update={"env": {name: value for name, value in keys.env.items() if name not in own}})

    groups = [without(group) for group in profile.groups]
    return profile.model_copy(update={"env": {**profile.env, **own}, "head": without(profile.head), "groups": groups})


def owned(document: Document, owner: Document) -> Document:
    """Set the owner of a document, with which Kubernetes deletes it."""
    document["metadata"]["ownerReferences"] = [owner_reference(owner)]
    return document


def owner_reference(owner: Document) -> Document:
    """What names an owner in the metadata of another object."""
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"]}
    return {**reference, "uid": owner["metadata"]["uid"]}
