"""A pod template by the keys of a profile; what has none goes into ``pod``, the override of the template."""

from dataclasses import dataclass, field
from typing import Any

from heliostat.cluster.importer.containers import Container, container_of
from heliostat.cluster.importer.fields import Fields
from heliostat.cluster.names import CLUSTER_LABEL, METRICS_PORT, PORTS, TEMPLATE
from heliostat.cluster.pod_override import OWN_CONTAINERS, OWN_MOUNTS, OWN_VOLUMES

OWN_ANNOTATIONS = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": ("false",),
    "karpenter.sh/do-not-disrupt": ("true",),
    "prometheus.io/scrape": ("true",),
    "prometheus.io/port": (str(PORTS["metrics"]), str(METRICS_PORT)),
    "prometheus.io/path": ("/metrics",),
}
DEFAULTS: dict[str, tuple[Any, ...]] = {
    "dnsPolicy": ("ClusterFirst",),
    "schedulerName": ("default-scheduler",),
}
"""What an API server fills in."""
PLACEMENT = {
    "serviceAccountName": "service_account",
    "runtimeClassName": "runtime_class",
    "priorityClassName": "priority_class",
    "nodeSelector": "node_selector",
}
SIMPLE = {"persistentVolumeClaim": "claim", "secret": "secret", "configMap": "config_map", "hostPath": "host_path"}
NAMES = {"persistentVolumeClaim": "claimName", "secret": "secretName", "configMap": "name", "hostPath": "path"}


@dataclass
class Pod:
    """What a template says, by the keys of a head or a group."""

    container: Container
    keys: dict[str, Any] = field(default_factory=dict)
    everywhere: dict[str, Any] = field(default_factory=dict)
    claim: tuple[str, str] | None = None
    """The storage of Heliostat's own documents: the claim and where it is mounted."""
    idle: int | None = None
    """Seconds until the idle watcher suspends the cluster."""


def pod_of(fields: Fields, ray_name: str, keys: str) -> Pod:
    """Read the template of the head or a group, whose keys in the profile begin with ``keys``."""
    head = ray_name == "ray-head"
    metadata, spec = fields.inside("metadata"), fields.inside("spec")
    first, *others = [*spec.items("containers")] or [spec.inside("containers")]
    pod = Pod(container_of(first, ray_name, keys))
    pod.keys |= pod.container.keys
    pod.everywhere |= pod.container.everywhere
    override: dict[str, Any] = {}
    _metadata(metadata, pod, override, head)
    more = [container for each in others if (container := _other(each, pod))]
    _spec(spec, pod, head)
    _volumes(spec, pod, override, used=[*more, *(spec.data.get("initContainers") or [])])
    if pod.container.override:
        more.insert(0, {"name": ray_name, **pod.container.override})
    if more:
        override.setdefault("spec", {})["containers"] = more
    for key in [*spec.data]:
        if (value := spec.take(key)) not in (None, {}, []):
            override.setdefault("spec", {})[key] = value
    if override:
        pod.keys["pod"] = override
    fields.rest()
    return pod


def _metadata(metadata: Fields, pod: Pod, override: dict[str, Any], head: bool) -> None:
    labels, annotations = metadata.take("labels", {}), metadata.take("annotations", {})
    labels = {key: str(value) for key, value in labels.items() if key != CLUSTER_LABEL and not key.startswith("ray.io/")}
    if labels and head:
        pod.keys["labels"] = labels
    elif labels:
        override["metadata"] = {"labels": labels}
    own = {TEMPLATE, *(key for key, values in OWN_ANNOTATIONS.items() if annotations.get(key) in values)}
    if kept := {key: str(value) for key, value in annotations.items() if key not in own}:
        pod.keys["annotations"] = kept
    for key in ("name", "namespace", "creationTimestamp"):
        metadata.take(key)
    metadata.rest()


def _other(fields: Fields, pod: Pod) -> dict[str, Any] | None:
    """A further container; None for those of Heliostat, of which one has the time without work."""
    name = fields.data.get("name")
    if name == "idle-watcher":
        pod.idle = next(
            (int(each["value"]) for each in fields.data.get("env") or [] if each.get("name") == "IDLE_SECONDS"), None
        )
    return None if name in OWN_CONTAINERS else fields.data


def _spec(spec: Fields, pod: Pod, head: bool) -> None:
    for key, ours in PLACEMENT.items():
        if value := spec.take(key):
            pod.keys[ours] = value
    if account := spec.take("serviceAccount"):
        pod.keys.setdefault("service_account", account)
    pod.everywhere["image_pull_secrets"] = [each["name"] for each in spec.take("imagePullSecrets", [])]
    spec.expect("restartPolicy", ("Never",), "Never: the autoscaler replaces pods")
    grace = spec.take("terminationGracePeriodSeconds")
    if not head and grace is not None and grace != pod.keys.get("drain_seconds", 25) + 20:
        pod.keys["drain_seconds"] = max(1, int(grace) - 20)
    _security(spec, pod)
    if not head:
        spec.expect("automountServiceAccountToken", (False,), "workers have no token of the API server")
        _spreads(spec, pod)
    gpu = {"key": pod.keys.get("gpu_resource"), "operator": "Exists", "effect": "NoSchedule"}
    if tolerations := [_toleration(each) for each in spec.take("tolerations", []) if each != gpu]:
        pod.keys["tolerations"] = tolerations
    for key, values in DEFAULTS.items():
        if spec.data.get(key) in values:
            spec.take(key)


def _security(spec: Fields, pod: Pod) -> None:
    security = spec.take("securityContext", {})
    for key, ours in (("runAsUser", "run_as_user"), ("runAsGroup", "run_as_group"), ("fsGroup", "fs_group")):
        pod.everywhere[ours] = security.pop(key, None)
    if security.get("fsGroupChangePolicy") == "OnRootMismatch":
        del security["fsGroupChangePolicy"]
    if security:
        spec.data["securityContext"] = security


def _spreads(spec: Fields, pod: Pod) -> None:
    for each in spec.items("topologySpreadConstraints", "topologyKey"):
        labels = each.inside("labelSelector").take("matchLabels", {})
        spread = {"key": each.take("topologyKey"), "max_skew": each.take("maxSkew", 1)}
        if each.take("whenUnsatisfiable") == "DoNotSchedule":
            spread["required"] = True
        if not {*labels} <= {CLUSTER_LABEL, "ray.io/group", "ray.io/cluster"}:
            each.lost("labelSelector", labels, "topology_spread spreads the pods of the group")
        pod.keys.setdefault("topology_spread", []).append(spread)
        each.rest()


def _toleration(document: dict[str, Any]) -> dict[str, Any]:
    """A toleration by the keys of a profile; Kubernetes' operator is by default Equal."""
    made = {("toleration_seconds" if key == "tolerationSeconds" else key): value for key, value in document.items()}
    return {"operator": "Equal", **made}


def _volumes(spec: Fields, pod: Pod, override: dict[str, Any], used: list[dict[str, Any]]) -> None:
    """Each mount of the container with Ray, with its volume; one that has other forms, or other users, goes as it is."""
    volumes = {volume["name"]: volume for volume in spec.take("volumes", [])}
    elsewhere = {mount["name"] for container in used for mount in container.get("volumeMounts") or []}
    kept = {name for name in elsewhere if name in volumes}
    for mount in pod.container.mounts:
        volume, path = volumes.get(mount["name"], {}), mount["mountPath"].rstrip("/")
        if mount["name"] == "storage" and "persistentVolumeClaim" in volume:
            pod.claim = (volume["persistentVolumeClaim"]["claimName"], mount["mountPath"])
        elif path in OWN_MOUNTS:
            _own_mount(spec, pod, volume, path)
        elif mount["name"] not in kept and (simple := _simple(volume, mount)):
            pod.keys.setdefault("volumes", []).append(simple)
        else:
            kept.add(mount["name"])
            pod.container.override.setdefault("volumeMounts", []).append(mount)
    for name in [name for name in volumes if name in kept]:
        if name in OWN_VOLUMES:
            spec.lost(f"volumes[{name}]", name, "it is the name of a volume of Heliostat's own; give it another name")
        override.setdefault("spec", {}).setdefault("volumes", []).append(volumes[name])


def _own_mount(spec: Fields, pod: Pod, volume: dict[str, Any], path: str) -> None:
    """A volume where Heliostat or KubeRay mounts one itself."""
    empty = volume.get("emptyDir")
    if path == "/dev/shm" and empty is not None and set(empty) <= {"medium", "sizeLimit"}:
        if limit := empty.get("sizeLimit"):
            pod.keys["shared_memory"] = str(limit)
    elif empty is None and volume.get("name") not in ("files", "team-budget"):
        spec.lost(
            f"volumes[{volume.get('name')}]", path, "Heliostat or KubeRay mounts a volume of its own there; use another path"
        )


def _simple(volume: dict[str, Any], mount: dict[str, Any]) -> dict[str, Any] | None:
    """A volume by the keys of a profile, or None if it has more than those."""
    made: dict[str, Any] = {"mount": mount["mountPath"]}
    if mount.keys() - {"name", "mountPath", "subPath", "readOnly"}:
        return None
    (kind, source), *more = [(key, value or {}) for key, value in volume.items() if key != "name"] or [("", {})]
    if kind in SIMPLE and source.keys() <= {NAMES[kind], "readOnly"}:
        made[SIMPLE[kind]] = source[NAMES[kind]]
    elif kind == "nfs" and source.keys() <= {"server", "path", "readOnly"}:
        made["nfs"] = f"{source['server']}:{source['path']}"
    elif kind == "emptyDir" and source.keys() == {"sizeLimit"}:
        made["empty_dir"] = str(source["sizeLimit"])
    else:
        return None
    if more:
        return None
    if mount.get("subPath"):
        made["sub_path"] = mount["subPath"]
    if mount.get("readOnly") or source.get("readOnly"):
        made["read_only"] = True
    return made
