"""The keys of a profile that describes the cluster in a document."""

import json
import re
from typing import Any

from heliostat.cluster.documents.manifests import PLANNING
from heliostat.cluster.field_types import cpus
from heliostat.cluster.importer.fields import Fields, Findings
from heliostat.cluster.importer.pods import Pod, pod_of
from heliostat.cluster.names import CLUSTER_LABEL, ELASTIC, MANAGED_BY, QUEUE_LABEL, Document
from heliostat.cluster.prices import PER_GPU
from heliostat.errors import UserError

SPECS = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
"""Where the cluster is in the spec of kinds that have one."""
JOB_HOURS = "activeDeadlineSeconds"
FIXED = 2**31 - 1
OF_CLUSTERS = {
    "gcsFaultToleranceOptions": "a head is not restarted in place: runs resume from their checkpoints; remove it",
    "networkPolicy": "Heliostat writes a NetworkPolicy of its own; remove it",
    "headServiceAnnotations": "make a Service of your own that selects the head",
    "upgradeStrategy": "heliostat up asks before it replaces pods; remove it",
    "managedBy": "another controller reconciles the cluster; remove it",
    "historyServerOptions": "runs keep their records on the storage; remove it",
}
OF_HEADS = {
    "serviceType": "the head's Service is a ClusterIP; heliostat session opens it, or make a Service of your own",
    "headService": "make a Service of your own that selects the head",
    "enableIngress": "make an Ingress of your own for the Service of the head",
    "ingressOptions": "make an Ingress of your own for the Service of the head",
    "labels": "the head runs no task that asks for a label; remove it",
    "resources": "the head runs no task that asks for a resource; remove it",
}
OF_GROUPS = {
    "numOfHosts": "a group's replica is one pod; a multi-host slice has no key in a profile",
    "resources": "Ray's resources follow cpu, gpu and labels; ask for nodes by labels",
    "suspend": "set max to what the group may have",
}
SCHEDULERS = ("ray.io/", "volcano.sh/", "yunikorn", "kai.scheduler/", "scheduling.k8s.io/", "queue-name")
HARMLESS = {
    "dashboard-host": ("0.0.0.0",),
    "block": ("true",),
    "port": ("6379",),
    "metrics-export-port": ("8080",),
    "disable-usage-stats": ("true",),
    "no-monitor": ("true",),
    "node-ip-address": ("$MY_POD_IP",),
}
"""Parameters of ``ray start`` that are so anyway."""


def imported(document: Document) -> tuple[dict[str, Any], Findings]:
    """The keys of a profile, as far as the document says them, and what it says beyond them.

    Args:
        document: a RayCluster, RayJob or RayService, as it is in a file or on a cluster.

    Raises:
        UserError: the document has no cluster.
    """
    found = Findings()
    root = Fields(document, "", found)
    metadata, spec = root.inside("metadata"), root.inside("spec")
    profile: dict[str, Any] = {"groups": []}
    if name := metadata.take("name"):
        profile["name"] = name
    if namespace := metadata.take("namespace"):
        profile["namespace"] = namespace
    kind = document["kind"]
    if kind != "RayCluster":
        spec = _inner(kind, spec, profile, str(name))
    planned = _metadata(metadata, profile, kind)
    autoscaling = spec.take("enableInTreeAutoscaling", False)
    _cluster(spec, profile, autoscaling)
    idle = _autoscaler(spec.inside("autoscalerOptions"), profile)
    head = _head(spec.inside("headGroupSpec"), profile)
    groups = [_group(fields, profile, autoscaling, idle) for fields in spec.items("workerGroupSpecs", "groupName")]
    if not groups:
        what = f"{kind} {name} has no {spec.at('workerGroupSpecs')}, and in a profile no task runs on the head"
        raise UserError(what, "add a worker group to the document")
    spec.take("suspend")
    spec.rest(OF_CLUSTERS)
    names = ["headGroupSpec", *(f"workerGroupSpecs[{group['name']}]" for group in profile["groups"])]
    _agree([head, *groups], names, profile, found)
    _storage(head, profile)
    _hoist(profile)
    _plan(profile, planned)
    return profile, found


def _inner(kind: str, spec: Fields, profile: dict[str, Any], name: str) -> Fields:
    """The spec of the cluster of a job or a service; what is left of theirs is not about the cluster."""
    inner = spec.inside(SPECS[kind])
    if not inner.data:
        what = f"{kind} {name} has no {SPECS[kind]}: it uses a cluster that exists"
        raise UserError(what, "import that RayCluster")
    if hours := spec.take(JOB_HOURS):
        profile["job_hours"] = hours / 3600
    if spec.data:
        also = (
            f"a profile describes the cluster; {'submit the job by heliostat submit' if kind == 'RayJob' else 'keep the rest'}"
        )
        spec.changed(", ".join(spec.data), "left out", also)
    return inner


def _metadata(metadata: Fields, profile: dict[str, Any], kind: str) -> dict[str, Any]:
    """The queue; other labels and annotations stay as they are. Returns what Heliostat's own annotation has."""
    labels, annotations = metadata.inside("labels"), metadata.inside("annotations")
    if queue := labels.take(QUEUE_LABEL):
        profile["queue"] = queue
    for key in (MANAGED_BY, CLUSTER_LABEL):
        labels.take(key)
    annotations.take(ELASTIC)
    planned: dict[str, Any] = json.loads(annotations.take(PLANNING, "{}"))
    for fields in (labels, annotations):
        for key, value in fields.data.items():
            if key == "kubectl.kubernetes.io/last-applied-configuration" or key.startswith("heliostat.dev/"):
                continue
            if any(word in key for word in SCHEDULERS):
                fields.lost(key, value, "a profile has no key for it; of schedulers it knows Kueue (queue)")
            else:
                fields.changed(key, value, "it stays on a live cluster, and is not on a new one")
    return planned


def _cluster(spec: Fields, profile: dict[str, Any], autoscaling: bool) -> None:
    if version := spec.take("rayVersion", _version_of(spec.data.get("headGroupSpec") or {})):
        profile["ray_version"] = str(version)
    auth = spec.inside("authOptions")
    if auth.take("mode") != "token":
        auth.changed("mode", "absent or disabled", "Heliostat requires the cluster's token (mode: token)")
    auth.rest(dict.fromkeys(auth.data, "Heliostat uses the token in the Secret that KubeRay makes; remove it"))
    tls = spec.inside("tlsOptions")
    if tls.take("enabled"):
        profile["tls"] = True
    tls.rest()
    if not autoscaling and "queue" not in profile:
        spec.changed("enableInTreeAutoscaling", False, "each group keeps its size: min and max are its replicas")


def _version_of(head: dict[str, Any]) -> str | None:
    """The version in the tag of the head's image."""
    containers = ((head.get("template") or {}).get("spec") or {}).get("containers") or [{}]
    found = re.search(r":(\d+\.\d+\.\d+)", str(containers[0].get("image")))
    return found[1] if found else None


def _autoscaler(options: Fields, profile: dict[str, Any]) -> int:
    """The sidecar's size; returns the idle time of groups that have none."""
    resources = options.inside("resources")
    requests: dict[str, Any] = {**resources.take("limits", {}), **resources.take("requests", {})}
    if size := {key: str(requests[key]) for key in ("cpu", "memory") if key in requests}:
        profile["autoscaler"] = size
    options.expect("version", ("v2",), "Heliostat uses autoscaler v2")
    options.expect("upscalingMode", ("Default", "Aggressive"), "the autoscaler adds all nodes that are asked for", "lost")
    for key in ("securityContext", "imagePullPolicy"):
        options.take(key)
    own = ("RAY_AUTOSCALER_RECONCILE", "RAY_AUTOSCALER_PENDING", "RAY_AUTOSCALER_AVAILABILITY")
    options.data["env"] = [each for each in options.take("env", []) if not each["name"].startswith(own)]
    idle = int(options.take("idleTimeoutSeconds", 60))
    options.rest(dict.fromkeys(options.data, "the autoscaler is the image's own, as Heliostat sets it up; remove it"))
    return idle


def _head(fields: Fields, profile: dict[str, Any]) -> Pod:
    pod = pod_of(fields.inside("template"), "ray-head", "head")
    resources = fields.take("resources", {})
    if drivers := resources.pop("driver", None):
        pod.keys["drivers"] = int(drivers)
    logical = _start_parameters(fields.inside("rayStartParams"), pod)
    if {**logical, **resources}.pop("CPU", None) != "0":
        fields.changed(
            "rayStartParams.num-cpus", logical.get("CPU", "absent"), "no task that asks for a CPU runs on the head (0)"
        )
    fields.expect("serviceType", ("ClusterIP",), OF_HEADS["serviceType"], "lost")
    if rest := {key: value for key, value in resources.items() if key != "CPU"}:
        fields.data["resources"] = rest
    if gpus := pod.keys.pop("gpu", None):
        fields.lost("template.spec.containers[ray-head].resources", {pod.keys.pop("gpu_resource"): gpus}, OF_HEADS["resources"])
    fields.rest(OF_HEADS)
    profile["head"] = pod.keys
    return pod


def _group(fields: Fields, profile: dict[str, Any], autoscaling: bool, idle: int) -> Pod:
    replicas = int(fields.take("replicas", 1 if autoscaling else 0))
    least, most = int(fields.take("minReplicas", 0)), int(fields.take("maxReplicas", FIXED))
    name = str(fields.take("groupName"))
    pod = pod_of(fields.inside("template"), "ray-worker", f"groups.{name}")
    pod.keys["name"] = name
    bounds = (least, most) if autoscaling else (replicas, replicas)
    pod.keys["min"], pod.keys["max"] = bounds
    if bounds[1] == 0:
        fields.changed("replicas", 0, "a profile's group has room for at least one pod: max is 1")
        pod.keys["max"] = 1
    if most == FIXED and autoscaling:
        limit = f"groups.{pod.keys['name']}.max"
        fields.lost("maxReplicas", "absent", f"the cost must have a limit: --set {limit}=8", limit)
        pod.keys["max"] = max(1, least)
    seconds = int(fields.take("idleTimeoutSeconds", idle))
    if autoscaling:
        pod.keys["idle_seconds"] = seconds
    _labels(fields.take("labels", {}), pod, fields)
    if (priority := fields.take("priority", 0)) and priority != (10 if pod.keys.get("market") == "spot" else 0):
        pod.keys["priority"] = priority
    logical = {**_start_parameters(fields.inside("rayStartParams"), pod), **fields.take("resources", {})}
    counted = {"CPU": -(-cpus(pod.keys.get("cpu", "1")) // 1), "GPU": pod.keys.get("gpu", 0)}
    for key, value in logical.items():
        if key not in counted or float(value) != counted[key]:
            fields.lost(f"resources.{key}", value, OF_GROUPS["resources"])
    if fields.data.get("numOfHosts") == 1:
        fields.take("numOfHosts")
    for key in ("scaleStrategy",):
        fields.take(key)
    fields.rest(OF_GROUPS)
    profile["groups"].append(pod.keys)
    return pod


def _labels(labels: dict[str, str], pod: Pod, fields: Fields) -> None:
    """Ray's labels of a group: the market, the type of the GPUs, and others."""
    if (market := labels.pop("ray.io/market-type", "on-demand")) != "on-demand":
        pod.keys["market"] = market
    gpu_type = labels.pop("ray.io/accelerator-type", None)
    if labels:
        pod.keys["labels"] = labels
    if not pod.keys.get("gpu"):
        if gpu_type:
            fields.lost("labels.ray.io/accelerator-type", gpu_type, "the group has no GPU")
    elif gpu_type:
        pod.keys["gpu_type"] = gpu_type
    elif guessed := _gpu_type(pod.keys.get("node_selector", {})):
        pod.keys["gpu_type"] = guessed


def _gpu_type(selector: dict[str, str]) -> str | None:
    """The GPU type of the price table that a node selector names, such as nvidia-tesla-t4."""
    words = " ".join(selector.values()).upper().replace("-", "").replace("_", "")
    return next((known for known in sorted(PER_GPU, key=len, reverse=True) if known.upper().replace("-", "") in words), None)


def _start_parameters(params: Fields, pod: Pod) -> dict[str, str]:
    """The logical resources in the parameters of ``ray start``; other parameters are reported."""
    logical = {name: params.take(key) for key, name in (("num-cpus", "CPU"), ("num-gpus", "GPU")) if key in params.data}
    for key, values in HARMLESS.items():
        if str(params.data.get(key)) in values:
            params.take(key)
    note = "Heliostat sets the parameters of ray start; remove it"
    params.rest({
        **dict.fromkeys(params.data, note),
        "resources": "Ray's resources follow cpu, gpu and labels; ask for nodes by labels",
        "object-store-memory": "Ray takes 30 % of the pod's memory; set shared_memory, or more memory",
        "memory": "Ray takes the pod's memory; set memory",
    })  # fmt: skip
    return {key: str(value) for key, value in logical.items() if value is not None}


def _agree(pods: list[Pod], names: list[str], profile: dict[str, Any], found: Findings) -> None:
    """Keys of the whole profile, which all pods must agree on; a difference is reported at the first pod that has another."""
    for key in pods[0].everywhere:
        first = pods[0].everywhere[key]
        if key == "fs_group" or first not in (None, []):
            profile[key] = first
        for pod, name in zip(pods, names, strict=True):
            if pod.everywhere[key] != first:
                note = f"all pods have the same {key}, and the head has {first}: choose one for all, --set {key}=..."
                Fields({}, name, found).lost(key, pod.everywhere[key], note, key)
    env = {key: value for key, value in pods[0].container.env.items() if all(p.container.env.get(key) == value for p in pods)}
    for pod in pods:
        if own := {key: value for key, value in pod.container.env.items() if key not in env}:
            pod.keys["env"] = own
    if env:
        profile["env"] = env
    secrets = [name for name in pods[0].container.secrets if all(name in pod.container.secrets for pod in pods)]
    for pod, name in zip(pods, names, strict=True):
        for secret in [each for each in pod.container.secrets if each not in secrets]:
            Fields({}, name, found).lost(
                "envFrom", secret, "a profile's secrets are those of all pods: --set secrets=[...]", "secrets"
            )
    if secrets:
        profile["secrets"] = secrets


def _storage(head: Pod, profile: dict[str, Any]) -> None:
    """The storage of Heliostat's own documents; those of others have none."""
    if head.claim:
        claim, mount = head.claim
        profile["storage"] = {"claim": claim, **({} if mount == "/mnt/heliostat" else {"mount": mount})}
    elif head.container.storage:
        profile["storage"] = {"uri": head.container.storage}
        if profile.get("secrets"):
            profile["storage"]["secret"], *profile["secrets"] = profile["secrets"]
    profile["idle_shutdown_seconds"] = head.idle
    if head.container.start:
        for group in profile["groups"]:
            group["start_seconds"] = head.container.start


def _hoist(profile: dict[str, Any]) -> None:
    """Move what the head and all groups have in common to the profile itself."""
    pods = [profile["head"], *profile.get("groups", [])]
    for key in (
        "service_account",
        "runtime_class",
        "priority_class",
        "ephemeral_storage",
        "shared_memory",
        "annotations",
        "volumes",
    ):
        if (value := pods[0].get(key)) and all(pod.get(key) == value for pod in pods):
            profile[key] = value
            for pod in pods:
                del pod[key]
    override = profile["head"].get("pod")
    if override and "containers" not in override.get("spec", {}) and all(pod.get("pod") == override for pod in pods):
        profile["pod"] = override
        for pod in pods:
            del pod["pod"]


def _plan(profile: dict[str, Any], planned: dict[str, Any]) -> None:
    """Add what only Heliostat's own annotation has."""
    of_groups = planned.pop("groups", {})
    profile["head"] |= planned.pop("head", {})
    profile["storage"] = {**profile.get("storage", {}), **planned.pop("storage", {})}
    if not profile["storage"]:
        del profile["storage"]
    profile |= planned
    for group in profile["groups"]:
        group |= of_groups.get(group["name"], {})
