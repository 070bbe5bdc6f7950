"""The key ``pod`` of a profile: a part of a pod template of Kubernetes, which is merged into Heliostat's own.

Lists of objects are merged by the key that identifies their items, as in a strategic merge patch of Kubernetes; other lists are
replaced, and null removes a key. What Heliostat or KubeRay sets itself cannot be changed; each has a key of its own.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from heliostat.config import nearest

RAY_CONTAINERS = ("ray-head", "ray-worker")
MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath",
    "volumeDevices": "devicePath", "ports": "containerPort", "hostAliases": "ip", "resourceClaims": "name",
    "topologySpreadConstraints": "topologyKey", "imagePullSecrets": "name", "schedulingGates": "name",
}  # fmt: skip
"""The ``patchMergeKey`` of each list in a pod template that has one (Kubernetes, api/core/v1/types.go)."""
OWNED = {
    "metadata.name": "KubeRay names the pods",
    "metadata.generateName": "KubeRay names the pods",
    "metadata.namespace": "set namespace in the profile",
    "metadata.annotations": "use annotations of the profile",
    "spec.restartPolicy": "the autoscaler needs Never",
    "spec.terminationGracePeriodSeconds": "use drain_seconds",
    "spec.nodeSelector": "use node_selector",
    "spec.tolerations": "use tolerations",
    "spec.serviceAccountName": "use service_account",
    "spec.serviceAccount": "use service_account",
    "spec.runtimeClassName": "use runtime_class",
    "spec.priorityClassName": "use priority_class",
    "spec.imagePullSecrets": "use image_pull_secrets",
    "spec.topologySpreadConstraints": "use topology_spread",
    "spec.resources": "use cpu, memory, ephemeral_storage and gpu",
    "spec.securityContext.runAsUser": "use run_as_user",
    "spec.securityContext.runAsGroup": "use run_as_group",
    "spec.securityContext.fsGroup": "use fs_group",
}
"""Paths in a template, and what to do instead."""
OWNED_BY_RAY = {
    "image": "use image",
    "imagePullPolicy": "use image_pull_policy",
    "command": "KubeRay starts Ray",
    "args": "KubeRay starts Ray",
    "workingDir": "a job's working directory is its own",
    "env": "use env",
    "envFrom": "use secrets",
    "ports": "KubeRay finds the dashboard by them",
    "livenessProbe": "KubeRay probes Ray itself",
    "readinessProbe": "KubeRay probes Ray itself",
    "resources.requests.cpu": "use cpu",
    "resources.limits.cpu": "a limit would throttle the pod while its node has idle cores",
    "resources.requests.memory": "use memory",
    "resources.limits.memory": "use memory",
    "resources.requests.ephemeral-storage": "use ephemeral_storage",
    "resources.limits.ephemeral-storage": "use ephemeral_storage",
}
"""The same in the container with Ray."""
SCALARS: dict[str, tuple[str, tuple[type, ...]]] = {
    "str": ("a text", (str,)), "int": ("a whole number", (int,)), "bool": ("true or false", (bool,)),
    "float": ("a number", (int, float)), "quantity": ("an amount such as 1 or 8Gi", (int, str)),
}  # fmt: skip
"""Types of the Kubernetes API without fields: in words, and in Python."""
OWN_MOUNTS = ("/opt/heliostat", "/opt/heliostat-code", "/tmp/ray", "/dev/shm", "/data/gcs", "/etc/ray/tls")
"""Where Heliostat and KubeRay mount volumes of their own."""
OWN_VOLUMES = ("storage", "files", "team-budget", "code", "shared-memory", "shared-mem", "ray-logs")
OWN_CONTAINERS = ("autoscaler", "idle-watcher", "recorder")
OWN_LABELS = ("heliostat.dev/", "ray.io/")

Found = Iterator[tuple[str, str]]
"""What is wrong, and the fix."""


def check(override: dict[str, Any]) -> None:
    """Check an override.

    Raises:
        ValueError: it does not fit the schema of a pod template, or changes what Heliostat or KubeRay owns; all are listed.
    """
    if found := [*_unknown(override, "V1PodTemplateSpec", "")] or [*_owned(override)]:
        whats, fixes = zip(*found, strict=True)
        raise ValueError(f"{' and '.join(whats)}; {', '.join(dict.fromkeys(fixes))}")


def _owned(override: dict[str, Any]) -> Found:
    """What is set by Heliostat or KubeRay, or is missing in an item that is not merged into one of theirs."""
    spec = override.get("spec") or {}
    yield from (_fixed(path, instead) for path, instead in OWNED.items() if _has(override, path))
    for key in (override.get("metadata") or {}).get("labels") or {}:
        if key.startswith(OWN_LABELS):
            yield f"metadata.labels.{key} is Heliostat's or KubeRay's own", "choose another label"
    for name in (volume["name"] for volume in spec.get("volumes") or []):
        if name in OWN_VOLUMES:
            yield f"spec.volumes[{name}] has the name of a volume of the cluster's own", "choose another name"
    for container in spec.get("containers") or []:
        yield from _owned_in(container, f"spec.containers[{container['name']}]")


def _owned_in(container: dict[str, Any], path: str) -> Found:
    if container["name"] in OWN_CONTAINERS:
        yield f"{path} is a container of the cluster's own", "choose another name"
    elif container["name"] in RAY_CONTAINERS:
        yield from (_fixed(f"{path}.{key}", instead) for key, instead in OWNED_BY_RAY.items() if _has(container, key))
        for mount in container.get("volumeMounts") or []:
            if mount["mountPath"].rstrip("/") in OWN_MOUNTS:
                yield f"{path} mounts a volume at {mount['mountPath']}, as the cluster itself does", "choose another path"
    elif not container.get("image"):
        names = " or ".join(RAY_CONTAINERS)
        yield f"{path} is a further container without an image", f"set its image, or name the one with Ray, {names}"


def _fixed(path: str, instead: str) -> tuple[str, str]:
    return f"{path} cannot be set here: {instead}", "remove it from pod"


def _has(value: Any, path: str) -> bool:
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True


def _unknown(value: Any, kind: str, path: str) -> Found:
    """Where a value does not fit a type of the Kubernetes API, by the models of its Python client."""
    if value is None:
        return
    items, values, fields = (
        re.fullmatch(r"[Ll]ist\[(.+)\]", kind),
        re.fullmatch(r"[Dd]ict[\[(]str, (.+)[\])]", kind),
        _fields(kind),
    )
    if items:
        yield from _unknown_items(value, items[1], path) if isinstance(value, list) else _wrong(value, "a list", path)
    elif values and isinstance(value, dict):
        kind = "quantity" if path.rpartition(".")[2] in ("limits", "requests", "overhead") else values[1]
        for key, item in value.items():
            yield from _unknown(item, kind, f"{path}.{key}")
    elif fields is not None and isinstance(value, dict):
        for key, item in value.items():
            place = f"{path}.{key}" if path else str(key)
            if key in fields:
                yield from _unknown(item, "quantity" if key == "sizeLimit" else fields[key], place)
            else:
                yield f"{place} is no field of Kubernetes", nearest(str(key), fields)
    elif values or fields is not None:
        yield from _wrong(value, "a mapping", path)
    elif kind in SCALARS and type(value) not in SCALARS[kind][1]:
        yield from _wrong(value, SCALARS[kind][0], path)


def _unknown_items(value: list[Any], kind: str, path: str) -> Found:
    by = MERGE_KEYS.get(path.rpartition(".")[2])
    for number, item in enumerate(value):
        name = item.get(by, number) if isinstance(item, dict) else number
        yield from _unknown(item, kind, f"{path}[{name}]")
        if by and isinstance(item, dict) and by not in item:
            yield f"{path}[{number}] has no {by}, by which it is merged", f"add its {by}"


def _wrong(value: Any, wanted: str, path: str) -> Found:
    quotes = ", in quotes" if wanted == "a text" and not isinstance(value, dict | list) else ""
    yield f"{path} is {value!r}, but must be {wanted}", f"write {wanted}{quotes}"


@cache
def _fields(kind: str) -> dict[str, str] | None:
    """The fields of a type and their types; None if it is no type with fields."""
    if not kind.startswith("V1"):
        return None
    from kubernetes.client import models  # half a second, which only a profile with an override needs

    model = getattr(models, kind)
    return {json: model.openapi_types[python] for python, json in model.attribute_map.items()}


def place_of(key: str) -> str:
    """What to write for a field of a pod's spec, in either spelling; empty if it is none."""
    first, *words = key.split("_")
    field = first + "".join(word.title() for word in words)
    if field not in (_fields("V1PodSpec") or {}):
        return ""
    return OWNED.get(f"spec.{field}", f"write pod: {{spec: {{{field}: ...}}}}")


def of_container(override: dict[str, Any], name: str) -> dict[str, Any]:
    """The override for pods whose container with Ray has this name, without that for other ones."""
    spec = override.get("spec") or {}
    others = [each for each in RAY_CONTAINERS if each != name]
    if "containers" not in spec:
        return override
    containers = [each for each in spec["containers"] or [] if each["name"] not in others]
    return {**override, "spec": {**spec, "containers": containers}}


def merge(base: Any, patch: Any, key: str = "") -> Any:
    """The value of a key with a patch merged into it; neither is changed."""
    if isinstance(patch, dict):
        base = base if isinstance(base, dict) else {}
        merged = {name: merge(base.get(name), patch[name], name) if name in patch else base[name] for name in {**base, **patch}}
        return {name: value for name, value in merged.items() if value is not None}
    if isinstance(patch, list) and (by := MERGE_KEYS.get(key)):
        items = {item[by]: item for item in base or []}
        return list((items | {item[by]: merge(items.get(item[by]), item) for item in patch}).values())
    return patch
