"""From a profile to Kubernetes documents: pure functions, nothing is sent and nothing is read.

The documents hold no field that the autoscaler owns (``replicas``, ``workersToDelete``) and no default that the API server
fills in; a value that is not set is not there, because to KubeRay an unset field and a zero are different things.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.profile import Head, Placement, Profile, WorkerGroup
from heliostat.config import digest
from heliostat.environment import NODES_FILE, STORAGE

Document = dict[str, Any]

GROUP, VERSION = "ray.io", "v1"
API_VERSION = f"{GROUP}/{VERSION}"
CLUSTER_LABEL, CRON_LABEL = "heliostat.dev/cluster", "heliostat.dev/cron"
TEMPLATE, SUSPENDED = "heliostat.dev/template", "heliostat.dev/suspended"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
TOKEN_KEY = "auth_token"
FEATURES: Mapping[str, frozenset[str]] = {"1.6": frozenset(), "1.7": frozenset({"priority", "tlsOptions"})}
"""What KubeRay versions know beyond the oldest that is supported; of a live cluster the API server's schema tells."""

PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
"""The named ports of a head. KubeRay finds the dashboard by its name."""
HEAD_GRACE = 10
"""The head does not end by SIGTERM, so each second of grace is a second of waiting (seen on KubeRay 1.6.1, Ray 2.60)."""
FILES = "/opt/heliostat"
SCRIPT = Path(__file__).parent / "inside.py"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What the pod-security standard "restricted" asks of every container."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Ray Client's server dies of a fork now and then (Ray 2.60, ray#63202).
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # In a pod of its own a worker has nobody to yield to.
    "RAY_worker_niceness": "0",
}


def documents(profile: Profile, features: frozenset[str] = FEATURES["1.7"]) -> list[Document]:
    """Everything that a standing cluster needs, in the order in which it must be applied."""
    return [
        *_claim(profile),
        head_files(profile),
        network_policy(profile, profile.name),
        ray_cluster(profile, features),
    ]


def unknown_to(profile: Profile, features: frozenset[str]) -> dict[str, tuple[str, str, str]]:
    """The keys of a profile that a KubeRay with these features would leave out: their value, what it lacks, what to do."""
    found = {}
    if profile.tls and "tlsOptions" not in features:
        found["tls"] = ("true", "TLS", "remove tls from the profile")
    for group in profile.groups:
        if group.priority and "priority" not in features:
            instead = "remove priority: then equal groups are filled alike"
            found[f"groups.{group.name}.priority"] = (str(group.priority), "priorities", instead)
    return found


def ray_cluster(profile: Profile, features: frozenset[str] = FEATURES["1.7"]) -> Document:
    """The standing cluster."""
    document: Document = {
        "apiVersion": API_VERSION,
        "kind": "RayCluster",
        "metadata": metadata(profile, profile.name),
        "spec": _cluster_spec(profile, profile.name, features, standing=True),
    }
    if profile.queue:
        document["metadata"]["labels"][QUEUE_LABEL] = profile.queue
    return document


def ray_job(
    profile: Profile,
    name: str,
    features: frozenset[str] = FEATURES["1.7"],
    entrypoint: str | None = None,
    runtime_env: str | None = None,
) -> Document:
    """A job with a cluster for itself, which is deleted with it.

    Args:
        profile: the cluster.
        name: the job's name, at most 47 characters.
        features: what the operator knows.
        entrypoint: the shell command, started by the operator; None: the client uploads the code and submits (InteractiveMode).
        runtime_env: Ray's runtime environment as YAML, with an entrypoint.
    """
    spec: Document = {
        "submissionMode": "HTTPMode" if entrypoint else "InteractiveMode",
        "backoffLimit": 0,
        "preRunningDeadlineSeconds": 600 + max(group.start_seconds for group in profile.groups),
        "activeDeadlineSeconds": int(profile.job_hours * 3600),
        "rayClusterSpec": _cluster_spec(profile, name, features, standing=False),
    }
    if entrypoint:
        spec |= {"entrypoint": entrypoint, "runtimeEnvYAML": runtime_env or "{}"}
    if profile.queue:
        # Kueue starts a job by lifting its suspension, and KubeRay suspends only jobs that shut their cluster down.
        spec |= {"suspend": True, "shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": 60}
    else:
        spec["deletionStrategy"] = {"deletionRules": [
            _deletion("DeleteCluster", 60, jobStatus="SUCCEEDED"),
            _deletion("DeleteCluster", 300, jobStatus="FAILED"),
            _deletion("DeleteCluster", 300, jobDeploymentStatus="Failed"),
            _deletion("DeleteSelf", 86400, jobStatus="SUCCEEDED"),
            _deletion("DeleteSelf", 86400, jobStatus="FAILED"),
            _deletion("DeleteSelf", 86400, jobDeploymentStatus="Failed"),
        ]}  # fmt: skip
    document: Document = {"apiVersion": API_VERSION, "kind": "RayJob", "metadata": metadata(profile, name), "spec": spec}
    if profile.queue:
        document["metadata"]["labels"][QUEUE_LABEL] = profile.queue
    return document


def network_policy(profile: Profile, name: str) -> Document:
    """Only the cluster's own pods reach its pods; all others, with the token, the dashboard.

    The dashboard must be open for the operator and for the API server's proxy, which no selector can name.
    """
    own = {"matchLabels": {CLUSTER_LABEL: name}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(profile, name),
        "spec": {
            "podSelector": own,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": own}]},
                {"ports": [{"port": PORTS["dashboard"], "protocol": "TCP"}]},
            ],
        },
    }


def _cluster_spec(profile: Profile, name: str, features: frozenset[str], standing: bool) -> Document:
    spec: Document = {
        "rayVersion": profile.ray_version,
        "authOptions": {"mode": "token"},
        **_autoscaling(profile),
        "headGroupSpec": _head(profile, name, standing),
        "workerGroupSpecs": [_worker_group(profile, name, group, features) for group in profile.groups],
    }
    if profile.tls:
        spec["tlsOptions"] = {"enabled": True}
    return spec


def _autoscaling(profile: Profile) -> Document:
    if profile.queue:
        return {"enableInTreeAutoscaling": False}
    return {
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": max(group.idle_seconds for group in profile.groups),
            "resources": resources(profile.autoscaler.cpu, profile.autoscaler.memory),
            "securityContext": RESTRICTED,
            "env": env({
                # After so long a pod that is still Pending is given up, and another group of the same shape is asked.
                "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S": max(group.start_seconds for group in profile.groups),
                "RAY_AUTOSCALER_PENDING_NODE_IDLE_TIMEOUT_S": 60,
                "RAY_AUTOSCALER_AVAILABILITY_RECOVERY_S": 300,
            }),
        },
    }  # fmt: skip


def _head(profile: Profile, name: str, standing: bool) -> Document:
    head = profile.head
    ray = _ray_container(profile, "ray-head", head)
    ray["ports"] = [{"containerPort": port, "name": port_name} for port_name, port in PORTS.items()]
    containers, volumes = [ray], []
    if standing:
        ray["env"] += env({NODES_FILE: f"{FILES}/nodes.json"})
        ray.setdefault("volumeMounts", []).append({"name": "files", "mountPath": FILES})
        volumes = [{"name": "files", "configMap": {"name": profile.name}}]
        if profile.idle_shutdown_seconds:
            containers.append(_watcher(profile))
    document = {
        "rayStartParams": {"dashboard-host": "0.0.0.0"},
        "resources": {"CPU": "0", "driver": str(head.drivers)},
        "template": _template(profile, name, head, containers, volumes, HEAD_GRACE),
    }
    return _marked(document)


def _worker_group(profile: Profile, name: str, group: WorkerGroup, features: frozenset[str]) -> Document:
    container = _ray_container(profile, "ray-worker", group)
    container["env"] += env({"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": group.drain_seconds})
    if group.gpu:
        for kind in ("limits", "requests"):
            container["resources"][kind][group.gpu_resource] = str(group.gpu)
    # Longer than the drain, so that a worker ends by itself and not by SIGKILL.
    template = _template(profile, name, group, [container], [], grace=group.drain_seconds + 20)
    template["spec"]["automountServiceAccountToken"] = False
    document: Document = {
        "groupName": group.name,
        "minReplicas": group.min,
        "maxReplicas": group.max,
        "labels": ray_labels(group),
        "rayStartParams": {},
        "template": template,
    }
    _marked(document)
    if profile.queue:
        return {**document, "replicas": group.max}
    document["idleTimeoutSeconds"] = group.idle_seconds
    if "priority" in features and (priority := priority_of(group)):
        document["priority"] = priority
    return document


def priority_of(group: WorkerGroup) -> int:
    """Which group is filled first: what the profile says, else spot before on-demand."""
    if group.priority is not None:
        return group.priority
    return 10 if group.market == "spot" else 0


def ray_labels(group: WorkerGroup) -> dict[str, str]:
    """The labels by which a task can ask for nodes of this group."""
    labels: dict[str, str] = {"ray.io/market-type": group.market}
    if group.gpu_type:
        labels["ray.io/accelerator-type"] = group.gpu_type
    return {**labels, **group.labels}


def _ray_container(profile: Profile, container: str, size: Placement) -> Document:
    storage = profile.storage
    document: Document = {
        "name": container,
        "image": profile.image,
        "resources": resources(size.cpu, size.memory),
        "securityContext": RESTRICTED,
        "env": env({
            **SETTINGS,
            STORAGE: storage.root,
            # A gang waits for its slowest pod; when Train gives up earlier, the autoscaler begins anew each time.
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": 300 + max(group.start_seconds for group in profile.groups),
            **profile.env,
        }),
    }  # fmt: skip
    if storage.claim:
        document["volumeMounts"] = [{"name": "storage", "mountPath": storage.mount}]
    if storage.secret:
        document["envFrom"] = [{"secretRef": {"name": storage.secret}}]
    return document


def _template(
    profile: Profile, name: str, where: Placement, containers: list[Document], volumes: list[Document], grace: int
) -> Document:
    tolerations = [toleration.model_dump(exclude_none=True) for toleration in where.tolerations]
    if isinstance(where, WorkerGroup) and where.gpu:
        tolerations.append({"key": where.gpu_resource, "operator": "Exists", "effect": "NoSchedule"})
    if profile.storage.claim:
        volumes = [{"name": "storage", "persistentVolumeClaim": {"claimName": profile.storage.claim}}, *volumes]
    spec: Document = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace,
        # The group of the Ray images, so that their user may write to a claim.
        "securityContext": {"fsGroup": 100, "fsGroupChangePolicy": "OnRootMismatch"},
        "containers": containers,
    }
    for key, value in {
        "nodeSelector": where.node_selector,
        "tolerations": tolerations,
        "volumes": volumes,
        "imagePullSecrets": [{"name": secret} for secret in profile.image_pull_secrets],
    }.items():
        if value:
            spec[key] = value
    labels = {CLUSTER_LABEL: name}
    if isinstance(where, Head):
        labels |= where.labels
    return {
        "metadata": {
            "labels": labels,
            "annotations": {
                # Ray's autoscaler decides when a pod goes; a node's must not take one away from a running job.
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
            },
        },
        "spec": spec,
    }


def _marked(group: Document) -> Document:
    """A group whose pods carry a mark of all that only a new pod takes over, so that old ones can be told."""
    fixed = [group["template"]["spec"], group.get("resources"), group.get("labels")]
    group["template"]["metadata"]["annotations"][TEMPLATE] = digest(fixed)
    return group


def _watcher(profile: Profile) -> Document:
    """The container that suspends the cluster after a time without work; the head's service account may do that."""
    return {
        "name": "idle-watcher",
        "image": profile.image,
        "command": ["python", "-u", f"{FILES}/inside.py", "idle"],
        "env": [
            *env({"CLUSTER": profile.name, "IDLE_SECONDS": profile.idle_shutdown_seconds}),
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": {"name": profile.name, "key": TOKEN_KEY}}},
        ],
        "resources": resources("50m", "128Mi"),
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "files", "mountPath": FILES}],
    }


def head_files(profile: Profile) -> Document:
    """What the head reads: the watcher's program, and the nodes that there may be, which change without a restart."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(profile, profile.name),
        "data": {"inside.py": SCRIPT.read_text(), "nodes.json": json.dumps(profile.capacity)},
    }


def _claim(profile: Profile) -> list[Document]:
    storage = profile.storage
    if not storage.claim or not storage.size:
        return []
    spec: Document = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": storage.size}}}
    if storage.storage_class:
        spec["storageClassName"] = storage.storage_class
    document: Document = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(profile, storage.claim),
        "spec": spec,
    }
    del document["metadata"]["labels"][CLUSTER_LABEL]  # it may be shared by several clusters
    return [document]


def metadata(profile: Profile, name: str) -> Document:
    """The name, the namespace and the labels of a document."""
    labels = {"app.kubernetes.io/managed-by": "heliostat", CLUSTER_LABEL: profile.name}
    document: Document = {"name": name, "labels": labels}
    if profile.namespace:
        document["namespace"] = profile.namespace
    return document


def resources(cpu: str, memory: str) -> Document:
    """Memory requests equal to limits, so that no pod is killed for what another one took.

    CPU has no limit: it would only slow a pod down while its node has cores to spare.
    """
    return {"limits": {"memory": memory}, "requests": {"cpu": cpu, "memory": memory}}


def env(values: Mapping[str, Any]) -> list[Document]:
    """Environment variables of a container."""
    return [{"name": name, "value": str(value)} for name, value in values.items()]


def _deletion(policy: str, seconds: int, **condition: str) -> Document:
    return {"policy": policy, "condition": {**condition, "ttlSeconds": seconds}}
