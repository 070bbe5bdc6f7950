"""The container with Ray: its size, image, environment, and the fields that go into the override of the pod template."""

from dataclasses import dataclass, field
from typing import Any

from heliostat.cluster.documents.pods import RESTRICTED, SETTINGS
from heliostat.cluster.importer.fields import Fields
from heliostat.cluster.names import PORTS
from heliostat.environment import NODES_FILE, STORAGE

START_TIMEOUT, DRAIN = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
KUBERAY_STARTS = "KubeRay starts Ray with the image's own Python; put what it does into the image"
OF_CONTAINERS = {
    "command": KUBERAY_STARTS,
    "args": KUBERAY_STARTS,
    "workingDir": "a job's working directory is its own; write absolute paths",
    "livenessProbe": "KubeRay probes Ray itself",
    "readinessProbe": "KubeRay probes Ray itself",
    "startupProbe": "KubeRay probes Ray itself",
}
"""Fields of the container with Ray that a profile cannot have, and what to do."""
DEFAULTS: dict[str, tuple[Any, ...]] = {
    "terminationMessagePath": ("/dev/termination-log",),
    "terminationMessagePolicy": ("File",),
}
"""What an API server fills in."""
BY_DEFAULT = {
    8000: "Ray Serve's; heliostat serve --on gives each service a Service of its own",
    44217: "the autoscaler's metrics; scrape the pod itself",
    44227: "the dashboard's metrics; scrape the pod itself",
}
"""Ports on which a head of Ray listens anyway, and how they are reached without the head's Service."""


@dataclass
class Container:
    """What a container says, by the keys of a profile."""

    keys: dict[str, Any] = field(default_factory=dict)
    everywhere: dict[str, Any] = field(default_factory=dict)
    """Keys of the profile that all containers must agree on."""
    env: dict[str, Any] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    mounts: list[dict[str, Any]] = field(default_factory=list)
    override: dict[str, Any] = field(default_factory=dict)
    storage: str | None = None
    start: int | None = None
    """Seconds, of the slowest group."""


def container_of(fields: Fields, ray_name: str, keys: str) -> Container:
    """Read a container with Ray, which is ``ray_name`` in Heliostat's own documents; see `pods.pod_of`."""
    made = Container()
    fields.expect("name", (ray_name,), f"its name is {ray_name}")
    made.everywhere["image"] = fields.take("image")
    made.everywhere["image_pull_policy"] = fields.take("imagePullPolicy")
    _size(fields.inside("resources"), made, keys)
    _environment(fields, made)
    _ports(fields, ray_name == "ray-head")
    security = fields.take("securityContext")
    if security is None:
        fields.changed("securityContext", "absent", "Heliostat's containers pass the restricted pod-security standard")
    elif security != RESTRICTED:
        made.override["securityContext"] = security
    made.mounts = fields.take("volumeMounts", [])
    for key, values in DEFAULTS.items():
        if fields.data.get(key) in values:
            fields.take(key)
    for key in [key for key in fields.data if key not in OF_CONTAINERS]:
        made.override[key] = fields.take(key)
    fields.rest(OF_CONTAINERS)
    return made


def _size(resources: Fields, made: Container, keys: str) -> None:
    """CPUs, memory, disk and GPUs; Ray counts the limits where there are some, else the requests (KubeRay 1.7)."""
    limits, requests = resources.inside("limits"), resources.inside("requests")
    for key, name in (("cpu", "cpu"), ("memory", "memory"), ("ephemeral-storage", "ephemeral_storage")):
        limit, request = limits.take(key), requests.take(key)
        if (chosen := limit if limit is not None else request) is not None:
            made.keys[name] = str(chosen)
        if key == "memory" and chosen is not None and limit != request:
            requests.changed(key, request or "absent", f"requests equal limits: {chosen}")
        if key == "cpu" and limit is not None and limit != request:
            requests.changed(key, request or "absent", f"the pod requests what Ray counts: {chosen}")
    for key in ("cpu", "memory"):
        if key not in made.keys:
            note = f"Ray would count the whole node: --set {keys}.{key}=..."
            requests.lost(key, "absent", note, f"{keys}.{key}")
    for key in [*dict.fromkeys([*limits.data, *requests.data])]:
        amount = limits.take(key) or requests.data.get(key)
        requests.take(key)
        if key.rpartition("/")[2] in ("gpu", "neuroncore") or ".com/gpu" in key:
            made.keys |= {"gpu": int(amount or 0), "gpu_resource": key}
        else:
            for kind in ("limits", "requests"):
                made.override.setdefault("resources", {}).setdefault(kind, {})[key] = amount


def _seconds(text: Any) -> int | None:
    """The whole seconds in a variable; None if there is no number in it."""
    try:
        return int(float(text))
    except (TypeError, ValueError):
        return None


def _environment(fields: Fields, made: Container) -> None:
    for entry in fields.items("env"):
        name, value = entry.take("name"), entry.take("value")
        source = entry.inside("valueFrom")
        secret = source.take("secretKeyRef")
        if secret:
            made.env[name] = {"secret": secret.get("name"), "key": secret.get("key")}
        elif source.data:
            source.rest(dict.fromkeys(source.data, "a profile's env takes texts and keys of Secrets"))
        elif name == STORAGE:
            made.storage = value
        elif name == START_TIMEOUT and (seconds := _seconds(value)) is not None:
            made.start = seconds - 300
        elif name == DRAIN and (seconds := _seconds(value)) is not None:
            made.keys["drain_seconds"] = seconds
        elif name != NODES_FILE and SETTINGS.get(name) != value:
            made.env[name] = value or ""
    for entry in fields.items("envFrom"):
        secret = entry.take("secretRef") or {}
        if secret.get("name"):
            made.secrets.append(secret["name"])
        entry.rest({"configMapRef": "give its variables by env, or keep them in a Secret", "prefix": "name each key by env"})


def _ports(fields: Fields, head: bool) -> None:
    """The ports of a head become those of its Service, which has four by Heliostat; elsewhere they are only information."""
    for port in fields.items("ports"):
        number = port.take("containerPort")
        port.data = {key: value for key, value in port.data.items() if key not in ("name", "protocol")}
        if head and number in BY_DEFAULT:
            fields.changed(f"ports[{number}]", number, f"the Service of the head does not have it: it is {BY_DEFAULT[number]}")
        elif head and number not in PORTS.values():
            note = "the Service of the head has Ray's own ports; make a Service of your own that selects the head"
            fields.lost(f"ports[{number}]", number, note)
        port.rest()
