"""The head and worker groups of a cluster: pod templates, resources and labels."""

from collections.abc import Mapping
from typing import Any

from heliostat.cluster.names import CLUSTER_LABEL, PORTS, TEMPLATE, TOKEN_KEY, Document
from heliostat.cluster.profile import Head, Placement, Profile, SecretKey, WorkerGroup
from heliostat.config import digest
from heliostat.environment import NODES_FILE, STORAGE

HEAD_GRACE = 10
"""The head does not exit on SIGTERM, so a longer grace period only delays its deletion (KubeRay 1.6.1, Ray 2.60)."""
FILES = "/opt/heliostat"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What the pod-security standard "restricted" requires of every container."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Without it Ray Client's server sometimes crashes on a fork (Ray 2.60, ray#63202).
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # A worker has its pod to itself and needs no low priority.
    "RAY_worker_niceness": "0",
}


def head_group(profile: Profile, name: str, standing: bool) -> Document:
    """The head group; in a standing cluster it also has the list of possible nodes, and an idle watcher."""
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
    return _with_template_hash(document)


def worker_group(profile: Profile, name: str, group: WorkerGroup, features: frozenset[str]) -> Document:
    """The spec of a worker group."""
    container = _ray_container(profile, "ray-worker", group)
    container["env"] += env({"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": group.drain_seconds})
    if group.gpu:
        for kind in ("limits", "requests"):
            container["resources"][kind][group.gpu_resource] = str(group.gpu)
    # Longer than the drain, so that a worker exits by itself and not by SIGKILL.
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
    _with_template_hash(document)
    if profile.queue:
        return {**document, "replicas": group.max}
    document["idleTimeoutSeconds"] = group.idle_seconds
    if "priority" in features and (priority := priority_of(group)):
        document["priority"] = priority
    return document


def priority_of(group: WorkerGroup) -> int:
    """The priority of a group, higher ones are filled first: from the profile, else spot before on-demand."""
    if group.priority is not None:
        return group.priority
    return 10 if group.market == "spot" else 0


def ray_labels(group: WorkerGroup) -> dict[str, str]:
    """The labels by which a task can request nodes of this group."""
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
            # A placement group waits for its slowest pod; if Train timed out earlier, the autoscaler would restart each time.
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": 300 + max(group.start_seconds for group in profile.groups),
            **profile.env,
        }),
    }  # fmt: skip
    if storage.claim:
        document["volumeMounts"] = [{"name": "storage", "mountPath": storage.mount}]
    if whole := [secret for _, secret, key in profile.secrets_named if key is None]:
        document["envFrom"] = [{"secretRef": {"name": secret}} for secret in whole]
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
                # Ray's autoscaler decides when a pod is removed; a node autoscaler must not evict one from a running job.
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
            },
        },
        "spec": spec,
    }


def _with_template_hash(group: Document) -> Document:
    """Annotate the pods of a group with a hash of everything that needs a new pod, so that outdated ones are recognized."""
    fixed = [group["template"]["spec"], group.get("resources"), group.get("labels")]
    group["template"]["metadata"]["annotations"][TEMPLATE] = digest(fixed)
    return group


def _watcher(profile: Profile) -> Document:
    """The container that suspends the cluster after a time without work, with the head's service account."""
    return {
        "name": "idle-watcher",
        "image": profile.image,
        **run_program("idle"),
        "env": [
            *env({"CLUSTER": profile.name, "IDLE_SECONDS": profile.idle_shutdown_seconds}),
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": {"name": profile.name, "key": TOKEN_KEY}}},
        ],
    }


def run_program(name: str) -> Document:
    """The fields of a container that runs a program of `heliostat.cluster.in_pod` from the volume ``files``."""
    return {
        "command": ["python", "-u", "-m", f"in_pod.{name}"],
        "workingDir": FILES,
        "resources": resources("50m", "128Mi"),
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "files", "mountPath": f"{FILES}/in_pod"}],
    }


def resources(cpu: str, memory: str) -> Document:
    """Memory requests equal to limits, so that no pod is killed for the memory of another one.

    There is no CPU limit: it would throttle a pod while its node has idle cores.
    """
    return {"limits": {"memory": memory}, "requests": {"cpu": cpu, "memory": memory}}


def env(values: Mapping[str, Any]) -> list[Document]:
    """Environment variables of a container; of a Secret only its name and key are in the document."""
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": value.secret, "key": value.key}}}
        if isinstance(value, SecretKey)
        else {"name": name, "value": str(value)}
        for name, value in values.items()
    ]
