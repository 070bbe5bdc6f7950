"""Each rule of the operator is violated once: what KubeRay would reject only by an event is not sent."""

import copy
from typing import Any

import pytest

from heliostat.cluster.documents import validation
from heliostat.cluster.documents.manifests import ray_cluster, ray_job
from heliostat.cluster.errors import Invalid
from heliostat.cluster.names import Document
from heliostat.cluster.profile import find

ABSENT = ...
POD = {"spec": {"restartPolicy": "Never", "containers": [{"name": "ray", "image": "heliostat/ray:2.60.0"}]}}
ENV = "headGroupSpec.template.spec.containers.0.env"
MOUNTS = "headGroupSpec.template.spec.containers.0.volumeMounts"
GROUP = "workerGroupSpecs.0"
FAULT_TOLERANCE = {"redisAddress": "redis:6379"}
RULE = "deletionStrategy.deletionRules"
DELETE = [{"policy": "DeleteCluster", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 60}}]


def cluster_spec() -> Document:
    return {
        "rayVersion": "2.60.0",
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2"},
        "headGroupSpec": {"rayStartParams": {}, "template": copy.deepcopy(POD)},
        "workerGroupSpecs": [
            {"groupName": name, "minReplicas": 0, "maxReplicas": 4, "rayStartParams": {}, "template": copy.deepcopy(POD)}
            for name in ("cpu", "gpu")
        ],
    }


def good(kind: str) -> Document:
    """A minimal document that the operator accepts."""
    job = {"entrypoint": "python train.py", "rayClusterSpec": cluster_spec()}
    specs = {
        "RayCluster": cluster_spec(),
        "RayJob": job,
        "RayCronJob": {"schedule": "0 3 * * *", "jobTemplate": job},
        "RayService": {"rayClusterConfig": cluster_spec()},
    }
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": "good"}, "spec": specs[kind]}


def changed(document: Document, changes: dict[str, Any]) -> Document:
    """The document with other values at these paths."""
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place: Any = document
        for part in parents:
            place = place[part] if isinstance(part, int) else place.setdefault(part, {})
        if value is ABSENT:
            del place[last]
        else:
            place[last] = value
    return document


def env(**values: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


CLUSTER: list[tuple[dict[str, Any], str]] = [
    ({"headGroupSpec.template.spec.containers": []}, "headGroupSpec.template has no container"),
    ({f"{GROUP}.template.spec.containers": []}, "workerGroupSpecs[cpu].template has no container"),
    ({f"{GROUP}.groupName": "gpu"}, "workerGroupSpecs has two groups named gpu"),
    ({f"{GROUP}.groupName": "GPU_Group!"}, "groupName is 'GPU_Group!'"),
    ({f"{GROUP}.minReplicas": -1}, "minReplicas -1"),
    ({f"{GROUP}.maxReplicas": -1, f"{GROUP}.minReplicas": -2}, "maxReplicas -1 is negative"),
    ({f"{GROUP}.minReplicas": 5}, "minReplicas is 5, but maxReplicas is 4"),
    ({"enableInTreeAutoscaling": False, f"{GROUP}.replicas": 5}, "replicas is 5, outside of 0 to 4"),
    *(
        ({f"{place}.resources": {"CPU": "1"}, f"{place}.rayStartParams": {param: "1"}}, f"rayStartParams.{param} and resources")
        for place in ("headGroupSpec", GROUP)
        for param in ("num-cpus", "num-gpus", "memory", "resources")
    ),
    ({f"{GROUP}.rayStartParams.labels": "a=b"}, "workerGroupSpecs[cpu] has rayStartParams.labels"),
    ({"headGroupSpec.labels": {"a b": "c"}}, "headGroupSpec.labels has a b: c"),
    ({f"{GROUP}.labels": {"zone": "größe"}}, "workerGroupSpecs[cpu].labels has zone: größe"),
    ({f"{GROUP}.labels": {"zone": "x" * 64}}, "at most 63"),
    ({f"{GROUP}.labels": {"No_Domain/zone": "x"}}, "No_Domain/zone"),
    ({f"{GROUP}.suspend": True}, "workerGroupSpecs[cpu].suspend"),
    ({"headGroupSpec.template.spec.restartPolicy": "Always"}, "headGroupSpec has restartPolicy Always"),
    ({f"{GROUP}.template.spec.restartPolicy": "OnFailure"}, "workerGroupSpecs[cpu] has restartPolicy OnFailure"),
    ({ENV: env(RAY_enable_autoscaler_v2="0")}, "autoscalerOptions.version and the head's RAY_enable_autoscaler_v2"),
    (
        {"enableInTreeAutoscaling": False, "autoscalerOptions": {}, ENV: env(RAY_enable_autoscaler_v2="1")},
        "RAY_enable_autoscaler_v2 is set without enableInTreeAutoscaling",
    ),
    ({"autoscalerOptions.idleTimeoutSeconds": -1}, "autoscalerOptions.idleTimeoutSeconds is -1"),
    ({f"{GROUP}.idleTimeoutSeconds": -1}, "workerGroupSpecs[cpu].idleTimeoutSeconds is -1"),
    ({"autoscalerOptions": {}, f"{GROUP}.idleTimeoutSeconds": 60}, "idleTimeoutSeconds needs autoscaler v2"),
    ({"autoscalerOptions.version": "v1", f"{GROUP}.priority": 10}, "priority needs autoscaler v2"),
    ({"rayVersion": "2.55.0", f"{GROUP}.priority": 10}, "rayVersion 2.56"),
    ({"authOptions": {}}, "authOptions has no mode"),
    ({"authOptions.mode": "token", "rayVersion": ""}, "authOptions.mode is token, but rayVersion is"),
    ({"authOptions.mode": "token", "rayVersion": "nightly"}, "rayVersion is nightly"),
    ({"authOptions.mode": "token", "rayVersion": "2.51.9"}, "rayVersion is 2.51.9"),
    ({"authOptions": {"mode": "disabled", "enableK8sTokenAuth": True}}, "enableK8sTokenAuth needs mode token"),
    ({"authOptions": {"mode": "token", "enableK8sTokenAuth": True, "secretName": "s"}}, "enableK8sTokenAuth and secretName"),
    ({"authOptions": {"mode": "token", "enableK8sTokenAuth": True}, "rayVersion": "2.54.0"}, "needs rayVersion 2.55"),
    ({ENV: env(RAY_REDIS_ADDRESS="redis:6379")}, "the head sets RAY_REDIS_ADDRESS"),
    ({ENV: env(REDIS_USERNAME="me")}, "the head names a Redis user"),
    ({"headGroupSpec.rayStartParams": {"redis-username": "me"}}, "the head names a Redis user"),
    (
        {"gcsFaultToleranceOptions": FAULT_TOLERANCE, "headGroupSpec.rayStartParams": {"redis-password": "x"}},
        "redis-password is set together with gcsFaultToleranceOptions",
    ),
    *(
        ({"gcsFaultToleranceOptions": FAULT_TOLERANCE, ENV: env(**{name: "x"})}, f"{name} is set together with")
        for name in ("REDIS_PASSWORD", "RAY_REDIS_ADDRESS")
    ),
    ({"gcsFaultToleranceOptions": {"storage": {"size": "1Gi"}}}, "storage belongs to backend rocksdb"),
    ({"gcsFaultToleranceOptions": {"backend": "rocksdb", "redisAddress": "x"}}, "rocksdb and redis settings"),
    ({"gcsFaultToleranceOptions.backend": "rocksdb", ENV: env(RAY_gcs_storage="x")}, "sets RAY_gcs_storage"),
    ({"gcsFaultToleranceOptions.backend": "rocksdb", MOUNTS: [{"mountPath": "/data/gcs/"}]}, "at /data/gcs"),
    (
        {"gcsFaultToleranceOptions": {"backend": "rocksdb", "storage": {"claimName": "c", "size": "1Gi"}}},
        "storage has claimName and size",
    ),
    ({"networkPolicy": {"workerGroups": [{"groupName": "gpus"}]}}, "names the group gpus, which does not exist"),
    ({"networkPolicy": {"mode": "DenyAllEgress", "head": {"ingressRules": []}}}, "ingress rules, but mode DenyAllEgress"),
    ({"networkPolicy": {"mode": "DenyAllIngress", "worker": {"egressRules": []}}}, "egress rules, but mode DenyAllIngress"),
    ({ENV: env(KUBERAY_GEN_AUTOSCALER_START_CMD="x")}, "headGroupSpec sets KUBERAY_GEN_AUTOSCALER_START_CMD"),
    ({"tlsOptions.enabled": True, ENV: env(RAY_USE_TLS="1")}, "headGroupSpec sets TLS variables"),
    ({"tlsOptions.enabled": True, "autoscalerOptions.env": env(RAY_TLS_CA_CERT="x")}, "autoscalerOptions sets TLS variables"),
    ({"tlsOptions.enabled": True, MOUNTS: [{"mountPath": "/etc/ray/tls"}]}, "headGroupSpec mounts a volume at /etc/ray/tls"),
    ({"historyServerOptions.collectorOptions": {"image": "collector:1"}}, "STORAGE_BACKEND"),
    ({"historyServerOptions.collectorOptions": {"env": env(STORAGE_BACKEND="S3")}}, "needs image"),
]

CLUSTER_OBJECT: list[tuple[dict[str, Any], str]] = [
    ({"metadata.name": "x" * 54}, "metadata.name has 54 characters"),
    ({"metadata.name": "1st"}, "metadata.name is 1st"),
    ({"metadata.name": "My-Cluster"}, "metadata.name is My-Cluster"),
    (
        {"metadata.annotations": {"ray.io/ft-enabled": "true"}, "spec.gcsFaultToleranceOptions": FAULT_TOLERANCE},
        "ray.io/ft-enabled is set together with",
    ),
    (
        {"metadata.annotations": {"ray.io/external-storage-namespace": "x"}, "spec.gcsFaultToleranceOptions": FAULT_TOLERANCE},
        "ray.io/external-storage-namespace is set together with",
    ),
]

SELECTED = {"rayClusterSpec": ABSENT, "clusterSelector": {"ray.io/cluster": "gpu"}}
JOB: list[tuple[dict[str, Any], str]] = [
    ({"rayClusterSpec": ABSENT}, "neither rayClusterSpec nor clusterSelector"),
    ({"rayClusterSpec": ABSENT, "clusterSelector": {"app": "x"}}, "clusterSelector names no cluster"),
    ({"rayClusterSpec.workerGroupSpecs.0.minReplicas": 5}, "minReplicas is 5"),
    ({"rayClusterSpec.upgradeStrategy": {"type": "Recreate"}}, "upgradeStrategy is not for the cluster of a job"),
    ({"rayClusterSpec.authOptions": {"mode": "token", "enableK8sTokenAuth": True}}, "enableK8sTokenAuth is not for a job"),
    ({"suspend": True}, "suspend needs shutdownAfterJobFinishes"),
    ({"ttlSecondsAfterFinished": 5}, "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"),
    ({"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": -5}, "ttlSecondsAfterFinished is -5"),
    ({"backoffLimit": -1}, "backoffLimit is -1"),
    ({"backoffLimit": 1, "submissionMode": "InteractiveMode"}, "backoffLimit must be 0 in InteractiveMode"),
    ({"activeDeadlineSeconds": 0}, "activeDeadlineSeconds is 0"),
    ({"preRunningDeadlineSeconds": -1}, "preRunningDeadlineSeconds is -1"),
    ({"submissionMode": "SidecarMode", "submitterPodTemplate": POD}, "SidecarMode takes no submitterPodTemplate"),
    ({"submissionMode": "SidecarMode", "submitterConfig": {"backoffLimit": 1}}, "SidecarMode takes no submitterConfig"),
    ({"submissionMode": "SidecarMode", **SELECTED}, "SidecarMode takes no clusterSelector"),
    (
        {
            "submissionMode": "SidecarMode",
            "rayClusterSpec.autoscalerOptions": ABSENT,
            "rayClusterSpec.headGroupSpec.template.spec.restartPolicy": "Always",
        },
        "restartPolicy Always in SidecarMode",
    ),
    ({"runtimeEnvYAML": "pip: [a"}, "runtimeEnvYAML is not a YAML mapping"),
    ({"runtimeEnvYAML": "- pip"}, "runtimeEnvYAML is not a YAML mapping"),
    ({**SELECTED, "suspend": True, "shutdownAfterJobFinishes": True}, "a selected cluster cannot be suspended"),
    ({**SELECTED, "backoffLimit": 1}, "a selected cluster cannot be retried"),
    ({"deletionStrategy": {}}, "neither rules nor both onSuccess and onFailure"),
    ({"deletionStrategy.onSuccess": {"policy": "DeleteCluster"}}, "neither rules nor both onSuccess and onFailure"),
    ({"deletionStrategy": {"deletionRules": DELETE, "onSuccess": {"policy": "DeleteSelf"}}}, "deletionRules and onSuccess"),
    ({RULE: DELETE, "shutdownAfterJobFinishes": True}, "deletionRules and shutdownAfterJobFinishes exclude each other"),
    (
        {
            "deletionStrategy": {"onSuccess": {"policy": "DeleteNone"}, "onFailure": {"policy": "DeleteCluster"}},
            "shutdownAfterJobFinishes": True,
        },
        "DeleteNone contradicts shutdownAfterJobFinishes",
    ),
    ({RULE: DELETE * 2}, "DeleteCluster twice for jobStatus SUCCEEDED"),
    ({RULE: [{"policy": "DeleteSelf", "condition": {"ttlSeconds": 1}}]}, "DeleteSelf for no status"),
    (
        {RULE: [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}}]},
        "DeleteSelf for jobStatus FAILED and jobDeploymentStatus Failed",
    ),
    ({RULE: [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "ttlSeconds": -1}}]}, "ttlSeconds -1"),
    ({RULE: [{"policy": "DeleteWorkers", "condition": {"jobStatus": "FAILED"}}]}, "DeleteWorkers excludes autoscaling"),
    (
        {"deletionStrategy": {"onSuccess": {"policy": "DeleteWorkers"}, "onFailure": {"policy": "DeleteCluster"}}},
        "DeleteWorkers excludes autoscaling",
    ),
    ({**SELECTED, RULE: DELETE}, "the policy DeleteCluster is not for a selected cluster"),
    (
        {RULE: [*DELETE, {"policy": "DeleteSelf", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 59}}]},
        "for jobStatus SUCCEEDED delete the cluster later than the job",
    ),
]

OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("RayJob", {"metadata.name": "x" * 48}, "use at most 47"),
    ("RayService", {"metadata.name": "x" * 48}, "use at most 47"),
    ("RayCronJob", {"metadata.name": "x" * 37}, "use at most 36"),
    ("RayCronJob", {"spec.schedule": "daily"}, "schedule is 'daily'"),
    ("RayCronJob", {"spec.jobTemplate.backoffLimit": -1}, "backoffLimit is -1"),
    ("RayService", {"spec.rayClusterConfig.authOptions": {"mode": "token", "enableK8sTokenAuth": True}}, "not for a service"),
    ("RayService", {"spec.rayClusterConfig.upgradeStrategy": {"type": "Recreate"}}, "not for the cluster of a service"),
    ("RayService", {"spec.rayClusterConfig.headGroupSpec.headService": {"metadata": {"name": "x"}}}, "headService"),
    ("RayService", {"spec.rayClusterDeletionDelaySeconds": -1}, "rayClusterDeletionDelaySeconds is -1"),
]

BROKEN = [
    *(("RayCluster", {f"spec.{path}": value for path, value in changes.items()}, words) for changes, words in CLUSTER),
    *(("RayCluster", changes, words) for changes, words in CLUSTER_OBJECT),
    *(("RayJob", {f"spec.{path}": value for path, value in changes.items()}, words) for changes, words in JOB),
    *OTHERS,
]


@pytest.mark.parametrize(("kind", "changes", "words"), BROKEN, ids=[words for *_, words in BROKEN])
def test_what_the_operator_would_refuse_is_refused_before(kind: str, changes: dict[str, Any], words: str) -> None:
    document = changed(good(kind), copy.deepcopy(changes))
    with pytest.raises(Invalid) as refused:
        validation.check(document)
    output = [f"{what} {fix}" for what, fix in validation.problems(document)]
    assert any(words in line for line in output), output
    assert refused.value.what.startswith(f"{kind} {document['metadata']['name']}: ")
    assert refused.value.fix


@pytest.mark.parametrize("kind", validation.NAME_LIMITS)
def test_a_good_document_passes(kind: str) -> None:
    validation.check(good(kind))


ALLOWED: list[tuple[str, dict[str, Any]]] = [
    ("RayCluster", {"metadata.name": "x" * 53}),
    ("RayCluster", {"metadata": {"generateName": "gpu-"}}),
    ("RayCluster", {"spec.workerGroupSpecs.0.groupName": "GPU"}),
    ("RayCluster", {"spec.workerGroupSpecs.0.replicas": 9}),
    ("RayCluster", {"spec.workerGroupSpecs.0.labels": {"ray.io/market-type": "spot", "empty": "", "A.b_c": "x" * 63}}),
    ("RayCluster", {"spec.workerGroupSpecs.0.resources": {"CPU": "1"}}),
    ("RayCluster", {"spec.workerGroupSpecs.0.rayStartParams": {"num-cpus": "1"}}),
    ("RayCluster", {"spec.workerGroupSpecs.0.idleTimeoutSeconds": 0, "spec.workerGroupSpecs.0.priority": 10}),
    ("RayCluster", {"spec.workerGroupSpecs.0.template.spec.restartPolicy": ABSENT}),
    ("RayCluster", {"spec.autoscalerOptions": {"version": "v1"}, "spec.headGroupSpec.template.spec.restartPolicy": "Always"}),
    ("RayCluster", {"spec.authOptions": {"mode": "token", "enableK8sTokenAuth": True}}),
    ("RayCluster", {"spec.authOptions.mode": "token", "spec.rayVersion": "v2.52.0"}),
    ("RayCluster", {"spec.upgradeStrategy": {"type": "Recreate"}}),
    ("RayCluster", {"spec.gcsFaultToleranceOptions": FAULT_TOLERANCE}),
    ("RayCluster", {"metadata.annotations": {"ray.io/ft-enabled": "true"}, f"spec.{ENV}": env(RAY_REDIS_ADDRESS="x")}),
    ("RayCluster", {"spec.gcsFaultToleranceOptions": {"backend": "rocksdb", "storage": {"size": "1Gi"}}}),
    ("RayCluster", {"spec.networkPolicy.workerGroups": [{"groupName": "gpu", "ingressRules": []}]}),
    ("RayCluster", {"spec.networkPolicy": {"mode": "DenyAllIngress", "head": {"ingressRules": []}}}),
    ("RayCluster", {"spec.tlsOptions.enabled": True}),
    ("RayJob", {"spec.clusterSelector": {"ray.io/cluster": "gpu"}, "spec.rayClusterSpec": ABSENT}),
    ("RayJob", {"spec.suspend": True, "spec.shutdownAfterJobFinishes": True, "spec.ttlSecondsAfterFinished": 60}),
    ("RayJob", {"spec.submissionMode": "SidecarMode", "spec.backoffLimit": 2}),
    ("RayJob", {f"spec.{RULE}": DELETE, "spec.runtimeEnvYAML": "pip: [arrow]"}),
    ("RayCronJob", {"spec.schedule": "@daily"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes"), ALLOWED, ids=[" ".join(changes) for _, changes in ALLOWED])
def test_what_the_operator_takes_is_let_through(kind: str, changes: dict[str, Any]) -> None:
    validation.check(changed(good(kind), copy.deepcopy(changes)))


def test_other_kinds_have_no_rules() -> None:
    validation.check({"kind": "ConfigMap", "metadata": {"name": "X" * 300}, "spec": {"workerGroupSpecs": [{}, {}]}})


def test_looking_at_a_document_does_not_change_it() -> None:
    profile = find("spot")
    for document in (ray_cluster(profile), ray_job(profile, "j", entrypoint="true")):
        before = copy.deepcopy(document)
        validation.check(document)
        assert document == before
