"""Documents refer to Secrets, and have their values nowhere but in the Secret of a job of its own."""

import json
from typing import Any
from unittest.mock import Mock

import pytest

from heliostat.cluster.diagnosis.findings import Finding
from heliostat.cluster.doctor.profile import in_secret
from heliostat.cluster.documents import validation
from heliostat.cluster.documents.manifests import FEATURES, documents, ray_job
from heliostat.cluster.documents.secrets import job_secret, owned, reading
from heliostat.cluster.jobs.packaging import Package
from heliostat.cluster.names import CLUSTER_LABEL, Document
from heliostat.cluster.profile import Profile, find
from heliostat.cluster.targets import scheduled
from heliostat.errors import UserError

VALUE = "correct-horse"
ENCODED = "Y29ycmVjdC1ob3JzZQ=="


def ray_containers(document: Document) -> list[Document]:
    """The Ray container of each pod of a RayCluster or a RayJob."""
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    return [group["template"]["spec"]["containers"][0] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def test_all_pods_have_the_keys_that_a_profile_names_and_no_document_has_a_value() -> None:
    profile = find("research", ["env={WANDB_API_KEY: {secret: wandb, key: api-key}, MODE: fast}", "secrets=[hub]"])
    cluster = documents(profile)[-1]
    validation.check(cluster)
    for container in ray_containers(cluster):
        reference = {"secretKeyRef": {"name": "wandb", "key": "api-key"}}
        assert {"name": "WANDB_API_KEY", "valueFrom": reference} in container["env"]
        assert {"name": "MODE", "value": "fast"} in container["env"]
        assert container["envFrom"] == [{"secretRef": {"name": "object-store"}}, {"secretRef": {"name": "hub"}}]


def test_a_job_with_its_own_cluster_reads_its_variables_from_its_own_secret_first() -> None:
    profile = find("gpu", ["env={TOKEN: {secret: team, key: token}, MODE: fast}"])
    job = ray_job(reading(profile, "gpu-1234", ["TOKEN"]), "gpu-1234")
    for container in ray_containers(job):
        (token,) = [each for each in container["env"] if each["name"] == "TOKEN"]
        assert token["valueFrom"]["secretKeyRef"] == {"name": "gpu-1234-env", "key": "TOKEN"}
    made = {**job, "metadata": {**job["metadata"], "uid": "u-1"}}
    secret = owned(job_secret(profile, "gpu-1234", {"TOKEN": VALUE}), made)
    assert secret["data"] == {"TOKEN": ENCODED}
    assert secret["metadata"]["name"] == "gpu-1234-env"
    assert secret["metadata"]["ownerReferences"] == [
        {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": "gpu-1234", "uid": "u-1"}
    ]


@pytest.mark.parametrize(
    ("owner", "variables", "left"), [("others", {}, True), ("gpu", {}, False), ("others", {"A": "x"}, None)]
)
def test_a_secret_of_others_is_neither_deleted_nor_overwritten(
    owner: str, variables: dict[str, str], left: bool | None
) -> None:
    live: dict[str, Document] = {"nightly-env": {"metadata": {"name": "nightly-env", "labels": {CLUSTER_LABEL: owner}}}}
    applied = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "nightly", "uid": "u-1"}}
    kube, code = Mock(), [Package("gcs://code.zip", b"")]
    kube.objects.return_value = Mock(find=live.get, delete=lambda name, seen: live.pop(name), apply=lambda document: applied)
    made = scheduled.documents(find("gpu"), "nightly", "0 2 * * *", "true", code, FEATURES["1.7"], secret_env=variables)
    if left is None:
        with pytest.raises(UserError, match=r"nightly-env \(of others\) exists, and is not of gpu"):
            scheduled.create(kube, find("gpu"), "nightly", made)
        return
    scheduled.create(kube, find("gpu"), "nightly", made)
    assert ("nightly-env" in live) is left


def test_of_scheduled_runs_only_the_secret_has_the_values() -> None:
    code = [Package("gcs://code.zip", b"")]
    made = scheduled.documents(
        find("gpu"), "nightly", "0 2 * * *", "true", code, FEATURES["1.7"], secret_env={"WANDB_API_KEY": VALUE}
    )
    (secret,) = [document for document in made if document["kind"] == "Secret"]
    assert made.index(secret) == 0, "before the jobs that need it"
    assert secret["data"] == {"WANDB_API_KEY": ENCODED}
    others = json.dumps([document for document in made if document != secret])
    assert VALUE not in others
    assert ENCODED not in others
    job = json.loads(next(document["data"]["job.json"] for document in made if document["kind"] == "ConfigMap"))
    for container in ray_containers(job):
        reference = {"secretKeyRef": {"name": secret["metadata"]["name"], "key": "WANDB_API_KEY"}}
        assert {"name": "WANDB_API_KEY", "valueFrom": reference} in container["env"]


@pytest.mark.parametrize(
    ("place", "key", "data", "state", "words"),
    [
        ("secrets", None, {"WANDB_API_KEY": "x", "api-key": "x"}, "ok", "WANDB_API_KEY of wandb (secrets)"),
        ("secrets", None, {"api-key": "x"}, "problem", "none of its keys (api-key) is the name of a variable"),
        ("secrets", None, {}, "problem", "it has none"),
        ("env.A", "api-key", {"api-key": "x"}, "ok", "api-key of wandb (env.A)"),
        ("env.A", "key", {"api-key": "x"}, "problem", "env.A names the key key of the secret wandb, which has api-key"),
        ("env.A", "key", None, "problem", "env.A names wandb, but namespace team does not have this secret"),
    ],
)
def test_the_doctor_checks_that_secrets_and_keys_exist(
    place: str, key: str | None, data: dict[str, Any] | None, state: str, words: str
) -> None:
    secret = None if data is None else {"type": "Opaque", "data": data}
    found: Finding = in_secret(secret, place, "wandb", key, "team")
    assert (found.state, words in found.what) == (state, True), found
    assert VALUE not in found.what


def test_a_profile_without_secrets_names_none() -> None:
    profile: Profile = find("gpu")
    assert profile.secrets_named == []
