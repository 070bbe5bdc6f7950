"""Kubernetes documents of a profile: pure functions without input or output.

The documents have no field that the autoscaler owns (``replicas``, ``workersToDelete``) and no default that the API server
fills in. A value that is not set is left out, because KubeRay distinguishes an unset field from a zero.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from heliostat.cluster.documents.pods import (
    RESTRICTED,
    each_once,
    env,
    head_group,
    keep_state,
    resources,
    start_limit,
    worker_group,
)
from heliostat.cluster.documents.serving import PORT, settings
from heliostat.cluster.names import (
    API_VERSION,
    CLUSTER_LABEL,
    ELASTIC,
    MANAGED_BY,
    METRICS_PORT,
    POD_MONITOR,
    PORTS,
    QUEUE_LABEL,
    Document,
)
from heliostat.cluster.profile import Profile
from heliostat.config import Config, to_yaml

FEATURES: Mapping[str, frozenset[str]] = {"1.6": frozenset(), "1.7": frozenset({"priority", "tlsOptions"})}
"""The fields of KubeRay versions beyond the oldest supported one; a live cluster has them in its API schema."""

PLANNING = "heliostat.dev/planning"
"""Annotation of a cluster: the keys of its profile that no other field has, as JSON, so that it can be imported as a whole."""
_ANSWERS = f"""answers() {{ timeout 2 bash -c "exec 3<>/dev/tcp/$1/{PORT} &&
printf 'GET /-/healthz HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q ' 200 ' <&3"; }}
! answers $FQ_RAY_IP && answers localhost"""
STANDS_IN: Document = {
    "exec": {"command": ["bash", "-c", _ANSWERS]},
    "periodSeconds": 2,
    "timeoutSeconds": 5,
    "failureThreshold": 1,
}
"""The readiness of a worker of a service, in place of the operator's: its proxy answers, and that of the head does not.

So requests go to the head, of whose proxy a lost node with a replica loses none, and to those of the workers while there is no
head. Nothing else tells a Service that a node is lost before Kubernetes does, after 40 seconds.
"""
STATES = ".gcs"
"""The folder of a claim with the state of Ray of services, by their names and those of their clusters."""
PROGRAMS = Path(__file__).parents[1] / "in_pod"


def documents(profile: Profile, features: frozenset[str] = FEATURES["1.7"]) -> list[Document]:
    """All documents of a standing cluster, in the order in which they must be applied."""
    return [
        *_claim(profile),
        head_files(profile),
        network_policy(profile, profile.name),
        ray_cluster(profile, features),
        *([pod_monitor(profile)] if POD_MONITOR in features and profile.monitoring.namespace else []),
    ]


def unknown_to(profile: Profile, features: frozenset[str]) -> dict[str, tuple[str, str, str]]:
    """Keys of a profile that a KubeRay with these features would ignore: their value, the missing feature, the fix."""
    found = {}
    if profile.tls and "tlsOptions" not in features:
        found["tls"] = ("true", "TLS", "remove tls from the profile")
    for group in profile.groups:
        if group.priority and "priority" not in features:
            instead = "remove priority: then all groups have the same"
            found[f"groups.{group.name}.priority"] = (str(group.priority), "priorities", instead)
    return found


def ray_cluster(profile: Profile, features: frozenset[str] = FEATURES["1.7"]) -> Document:
    """The standing cluster."""
    document: Document = {
        "apiVersion": API_VERSION,
        "kind": "RayCluster",
        "metadata": metadata(profile, profile.name),
        "spec": _cluster_spec(profile, profile.name, features, profile.name, standing=True),
    }
    if planned := planning(profile):
        document["metadata"]["annotations"] = {PLANNING: json.dumps(planned, sort_keys=True)}
    _queued(document, profile)
    return document


def _queued(document: Document, profile: Profile) -> None:
    """Give a cluster or a job to the profile's queue, which may admit each growth of it alone."""
    if profile.queue:
        document["metadata"]["labels"][QUEUE_LABEL] = profile.queue
        if profile.autoscaled:
            document["metadata"].setdefault("annotations", {})[ELASTIC] = "true"


def planning(profile: Profile) -> Document:
    """The keys of a profile that its RayCluster has in no field of its own, as far as they are not the defaults."""
    unread = ("start_seconds", "price_per_hour", *(() if profile.autoscaled else ("idle_seconds",)))
    whole = ("node_autoscaling", "job_hours", "monitoring", "budget", *(() if profile.autoscaled else ("autoscaler",)))
    slowest = start_limit(profile)

    def given(config: Config, keys: Iterable[str]) -> Document:
        return {
            key: value for key, value in config.model_dump(exclude_defaults=True, include={*keys}).items() if value is not None
        }

    groups = {group.name: given(group, unread) for group in profile.groups}
    for group in profile.groups:
        # An import takes the longest start, which is a field, for that of each group.
        if group.start_seconds == slowest:
            groups[group.name].pop("start_seconds", None)
        else:
            groups[group.name]["start_seconds"] = group.start_seconds
    parts = {
        **given(profile, whole),
        "head": given(profile.head, ["price_per_hour"]),
        "groups": {name: keys for name, keys in groups.items() if keys},
        "storage": given(profile.storage, ["size", "storage_class"]),
    }
    return {key: value for key, value in parts.items() if value != {}}


def templates(profile: Profile) -> list[Document]:
    """The pod templates of the head and of each group."""
    spec = ray_cluster(profile)["spec"]
    return [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def ray_job(
    profile: Profile,
    name: str,
    features: frozenset[str] = FEATURES["1.7"],
    entrypoint: str | None = None,
    runtime_env: str | None = None,
    files: str = "",
) -> Document:
    """A job with its own cluster, which is deleted with it.

    Args:
        profile: the cluster.
        name: the job's name, at most 47 characters.
        features: of the operator.
        entrypoint: the shell command, started by the operator; None: the client uploads the code and submits (InteractiveMode).
        runtime_env: Ray's runtime environment as YAML, with an entrypoint.
        files: the ConfigMap with `recorder_files`; without one the nodes are not recorded.
    """
    lasts = profile.job_hours * 3600
    spec: Document = {
        "submissionMode": "HTTPMode" if entrypoint else "InteractiveMode",
        "backoffLimit": 0,
        "preRunningDeadlineSeconds": 600 + profile.slowest_start,
        "activeDeadlineSeconds": int(lasts),
        # Not deletionRules: the webhook of Kueue (0.15), which every RayJob passes, makes the rule for a job that failed before
        # it ran invalid. Without that rule its cluster would never be deleted.
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 60,
        "rayClusterSpec": _cluster_spec(profile, name, features, files, standing=False, lasts=lasts),
    }
    if entrypoint:
        spec |= {"entrypoint": entrypoint, "runtimeEnvYAML": runtime_env or "{}"}
    document: Document = {"apiVersion": API_VERSION, "kind": "RayJob", "metadata": metadata(profile, name), "spec": spec}
    if profile.queue:
        # Kueue starts a job by resuming it.
        spec["suspend"] = True
    _queued(document, profile)
    return document


def ray_service(
    profile: Profile, name: str, config: Document, features: frozenset[str] = FEATURES["1.7"], files: str = ""
) -> Document:
    """A service with its own cluster, which the operator keeps running.

    Args:
        profile: the cluster.
        name: the service's name, at most 47 characters.
        config: what Serve runs, see `heliostat.cluster.documents.serving.serve_config`.
        features: of the operator.
        files: as of `ray_job`.
    """
    cluster = _cluster_spec(profile, name, features, files, standing=False)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        ray = group["template"]["spec"]["containers"][0]
        ray.setdefault("ports", []).append({"containerPort": PORT, "name": "serve"})
        ray["env"] = each_once(env(settings(config)), ray["env"])
    for group in cluster["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        pod["containers"][0].setdefault("readinessProbe", STANDS_IN)
        for spread in pod.get("topologySpreadConstraints", ()):  # the cluster before has the same labels until it is deleted
            spread.setdefault("matchLabelKeys", ["ray.io/cluster"])
    if profile.storage.claim:
        keep_state(cluster, f"{profile.storage.mount}/{STATES}/{name}")
    spec = {"serveConfigV2": to_yaml(config), "rayClusterConfig": cluster}
    return {"apiVersion": API_VERSION, "kind": "RayService", "metadata": metadata(profile, name), "spec": spec}


def network_policy(profile: Profile, name: str, *ports: int) -> Document:
    """Admit only the cluster's own pods, those of the namespace for monitoring to the metrics, and all to ``ports``.

    The dashboard, which requires the token, is open to all: the operator and the API server's proxy need it, and no selector
    matches the latter.
    """
    own = {"matchLabels": {CLUSTER_LABEL: name}}
    watching = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": profile.monitoring.namespace}}}
    scraped = {"from": [watching], "ports": [{"port": port, "protocol": "TCP"} for port in (PORTS["metrics"], METRICS_PORT)]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(profile, name),
        "spec": {
            "podSelector": own,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": own}]},
                {"ports": [{"port": port, "protocol": "TCP"} for port in (PORTS["dashboard"], *ports)]},
                *([scraped] if profile.monitoring.namespace else []),
            ],
        },
    }


def pod_monitor(profile: Profile) -> Document:
    """Have Prometheus Operator scrape the workers, and of the head the recorder, which has the metrics of Ray, too."""
    workers = {
        "port": "metrics",
        "relabelings": [
            {"sourceLabels": ["__meta_kubernetes_pod_label_ray_io_node_type"], "regex": "head", "action": "drop"},
        ],
    }
    document: Document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": POD_MONITOR,
        "metadata": metadata(profile, profile.name),
        "spec": {
            "selector": {"matchLabels": {CLUSTER_LABEL: profile.name}},
            "podTargetLabels": ["ray.io/cluster", "ray.io/group"],
            "podMetricsEndpoints": [{"port": "heliostat"}, workers],
        },
    }
    document["metadata"]["labels"] |= profile.monitoring.labels
    return document


def _cluster_spec(
    profile: Profile, name: str, features: frozenset[str], files: str, standing: bool, lasts: float | None = None
) -> Document:
    annotated = bool(profile.monitoring.namespace) and not (standing and POD_MONITOR in features)
    spec: Document = {
        "rayVersion": profile.ray_version,
        "authOptions": {"mode": "token"},
        **_autoscaling(profile),
        "headGroupSpec": head_group(profile, name, files, standing, annotated, lasts),
        "workerGroupSpecs": [worker_group(profile, name, group, features, annotated) for group in profile.groups],
    }
    if profile.tls:
        spec["tlsOptions"] = {"enabled": True}
    return spec


def _autoscaling(profile: Profile) -> Document:
    if not profile.autoscaled:
        return {"enableInTreeAutoscaling": False}
    return {
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": max(group.idle_seconds for group in profile.groups),
            "resources": resources(profile.autoscaler.cpu, profile.autoscaler.memory),
            "securityContext": RESTRICTED,
            **({"imagePullPolicy": profile.image_pull_policy} if profile.image_pull_policy else {}),
            "env": env({
                # After this time a Pending pod is abandoned, and another group of the same shape is tried.
                "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S": start_limit(profile),
                "RAY_AUTOSCALER_PENDING_NODE_IDLE_TIMEOUT_S": 60,
                "RAY_AUTOSCALER_AVAILABILITY_RECOVERY_S": 300,
            }),
        },
    }  # fmt: skip


def head_files(profile: Profile) -> Document:
    """The files of the head: the programs beside it, the possible nodes and the prices, which may change without a restart."""
    nodes = {"nodes.json": json.dumps(profile.capacity)}
    return config_map(profile, profile.name, {**program("idle"), **recorder_files(profile), **nodes})


def recorder_files(profile: Profile) -> dict[str, str]:
    """The files of the recorder, as data of a ConfigMap."""
    numbers = {"prices.json": profile.prices, "limits.json": profile.limits}
    return {**program("recorder"), **{name: json.dumps(value) for name, value in numbers.items()}}


def config_map(profile: Profile, name: str, data: dict[str, str]) -> Document:
    """A ConfigMap of files."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(profile, name), "data": data}


def program(name: str) -> dict[str, str]:
    """The files of a program of `heliostat.cluster.in_pod`, as data of a ConfigMap."""
    needs = {
        "recorder": ("actions.py", "budget.py", "metrics.py", "pods.py", "priced.py", "ray_usage.py", "record.py", "store.py"),
        "idle": ("actions.py", "store.py"),
    }
    more = needs.get(name, ())
    return {file: (PROGRAMS / file).read_text() for file in (f"{name}.py", "api.py", *more)}


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
    del document["metadata"]["labels"][CLUSTER_LABEL]  # several clusters may share it
    return [document]


def metadata(profile: Profile, name: str) -> Document:
    """The metadata of a document: name, namespace and labels."""
    labels = {MANAGED_BY: "heliostat", CLUSTER_LABEL: profile.name}
    document: Document = {"name": name, "labels": labels}
    if profile.namespace:
        document["namespace"] = profile.namespace
    return document
