"""The operator's own rules, checked before anything is sent.

KubeRay takes any document that fits its schema, and tells what is wrong with it only by an event, on which no status shows
(ray-operator/controllers/ray/utils/validation.go, v1.6.1 and v1.7.0). Some rules are of ours, where it would just misbehave.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from cluster.errors import Invalid

Document = dict[str, Any]
Rule = Callable[[Document], Iterator[tuple[str, str]]]

NAME_LIMITS = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
RESOURCE_PARAMS = ("num-cpus", "num-gpus", "memory", "resources")
AUTOSCALER_V2 = "RAY_enable_autoscaler_v2"


def check(document: Document) -> None:
    """Raise the first rule that a document breaks; kinds that are not KubeRay's have none.

    Raises:
        Invalid: names the field, the value and what the operator wants.
    """
    for what, fix in problems(document):
        raise Invalid(f"{document['kind']} {document['metadata'].get('name', '')}: {what}", fix)


def problems(document: Document) -> Iterator[tuple[str, str]]:
    """All rules that a document breaks, each as what is wrong and how to mend it."""
    kind, spec = document.get("kind"), document.get("spec", {})
    if kind not in NAME_LIMITS:
        return
    yield from _name(document)
    if kind == "RayCluster":
        yield from _cluster(spec)
    elif kind == "RayJob":
        yield from _job(spec)
    elif kind == "RayCronJob":
        yield from _job(spec.get("jobTemplate", {}).get("spec", spec.get("jobTemplate", {})))
    elif kind == "RayService":
        yield from _cluster(spec.get("rayClusterConfig", {}))


def _name(document: Document) -> Iterator[tuple[str, str]]:
    name, limit = document["metadata"].get("name", ""), NAME_LIMITS[document["kind"]]
    if len(name) > limit:
        yield f"metadata.name has {len(name)} characters", f"use at most {limit}"
    if name and not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"metadata.name is {name}", "use small letters, digits and '-', a letter first"


def _cluster(spec: Document) -> Iterator[tuple[str, str]]:
    for rule in (_groups, _resources, _autoscaling, _auth, _fault_tolerance, _labels, _young_fields):
        yield from rule(spec)


def _all_groups(spec: Document) -> Iterator[tuple[str, Document]]:
    yield "headGroupSpec", spec.get("headGroupSpec", {})
    for group in spec.get("workerGroupSpecs", []):
        yield f"workerGroupSpecs[{group.get('groupName')}]", group


def _containers(group: Document) -> list[Document]:
    found: list[Document] = group.get("template", {}).get("spec", {}).get("containers", [])
    return found


def _env(group: Document) -> dict[str, Any]:
    return {e["name"]: e.get("value") for container in _containers(group)[:1] for e in container.get("env", [])}


def _groups(spec: Document) -> Iterator[tuple[str, str]]:
    names = [group.get("groupName", "") for group in spec.get("workerGroupSpecs", [])]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"workerGroupSpecs has two groups named {name}", "give each a name of its own"
    for where, group in _all_groups(spec):
        if not _containers(group):
            yield f"{where}.template has no container", "add the Ray container"
    for group in spec.get("workerGroupSpecs", []):
        name, least, most = group.get("groupName", ""), group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name):
            yield f"groupName is {name!r}, which cannot be part of a pod's name", "use small letters, digits and '-'"
        if least < 0 or most < 0:
            yield f"{name}: minReplicas {least} or maxReplicas {most} is negative", "use 0 or more"
        if least > most:
            yield f"{name}: minReplicas is {least}, but maxReplicas is {most}", f"set minReplicas to at most {most}"
        if not least <= group.get("replicas", least) <= most and not spec.get("enableInTreeAutoscaling"):
            yield f"{name}: replicas is {group['replicas']}, outside of {least} to {most}", "set it inside"


def _resources(spec: Document) -> Iterator[tuple[str, str]]:
    for where, group in _all_groups(spec):
        params = group.get("rayStartParams") or {}
        twice = [key for key in RESOURCE_PARAMS if key in params]
        if twice and group.get("resources"):
            yield f"{where} has rayStartParams.{twice[0]} and resources", "keep one of the two"


def _labels(spec: Document) -> Iterator[tuple[str, str]]:
    for where, group in _all_groups(spec):
        if "labels" in (group.get("rayStartParams") or {}):
            yield f"{where} has rayStartParams.labels", "use the group's labels"
        for key, value in (group.get("labels") or {}).items():
            plain = re.fullmatch(r"([\w.-]+/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", key)
            if not plain or not re.fullmatch(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", str(value)):
                yield f"{where}.labels has {key}: {value}", "use letters, digits, '-', '_' and '.', at most 63"


def _autoscaling(spec: Document) -> Iterator[tuple[str, str]]:
    options, on = spec.get("autoscalerOptions") or {}, bool(spec.get("enableInTreeAutoscaling"))
    version, flag = options.get("version"), _env(spec.get("headGroupSpec", {})).get(AUTOSCALER_V2)
    v2 = version == "v2" or flag in ("1", "true")
    if version and flag is not None:
        yield f"autoscalerOptions.version and the head's {AUTOSCALER_V2} are both set", "keep autoscalerOptions.version"
    if flag in ("1", "true") and not on:
        yield f"the head's {AUTOSCALER_V2} is set without enableInTreeAutoscaling", "set enableInTreeAutoscaling: true"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield f"autoscalerOptions.idleTimeoutSeconds is {options['idleTimeoutSeconds']}", "use 0 or more"
    for where, group in _all_groups(spec):
        policy = group.get("template", {}).get("spec", {}).get("restartPolicy", "Never")
        if on and v2 and policy != "Never":
            yield f"{where} has restartPolicy {policy}, but autoscaler v2 needs Never", "set restartPolicy: Never"
        if on and group.get("suspend"):
            yield f"{where}.suspend is set together with autoscaling", "remove it"
        if "idleTimeoutSeconds" in group and not (on and v2):
            yield f"{where}.idleTimeoutSeconds needs autoscaler v2", "set autoscalerOptions.version: v2"
        if group.get("idleTimeoutSeconds", 0) < 0:
            yield f"{where}.idleTimeoutSeconds is {group['idleTimeoutSeconds']}", "use 0 or more"
        if group.get("priority") and not (v2 and _at_least(spec, (2, 56))):
            yield f"{where}.priority needs autoscaler v2 and rayVersion 2.56", "set both"


def _auth(spec: Document) -> Iterator[tuple[str, str]]:
    options = spec.get("authOptions")
    if options is None:
        return
    if "mode" not in options:
        yield "authOptions has no mode, and then authentication stays off", "set authOptions.mode: token"
    if options.get("mode") == "token" and not _at_least(spec, (2, 52)):
        yield f"authOptions.mode is token, but rayVersion is {spec.get('rayVersion')}", "set rayVersion to 2.52 or later"
    if options.get("enableK8sTokenAuth"):
        if options.get("mode") != "token" or options.get("secretName"):
            yield "authOptions.enableK8sTokenAuth needs mode token and no secretName", "set mode: token"
        if not _at_least(spec, (2, 55)):
            yield f"authOptions.enableK8sTokenAuth needs rayVersion 2.55, not {spec.get('rayVersion')}", "use a later Ray"


def _fault_tolerance(spec: Document) -> Iterator[tuple[str, str]]:
    options, head = spec.get("gcsFaultToleranceOptions"), spec.get("headGroupSpec", {})
    env, params = _env(head), head.get("rayStartParams") or {}
    if options is None:
        if "RAY_REDIS_ADDRESS" in env:
            yield "the head sets RAY_REDIS_ADDRESS", "use gcsFaultToleranceOptions.redisAddress"
        return
    if "redis-password" in params or {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & env.keys():
        yield "the head has Redis settings of its own beside gcsFaultToleranceOptions", "keep gcsFaultToleranceOptions"
    if options.get("backend", "redis") == "rocksdb":
        if any(key.startswith("redis") for key in options):
            yield "gcsFaultToleranceOptions has backend rocksdb and redis settings", "remove those of redis"
    elif options.get("storage"):
        yield "gcsFaultToleranceOptions.storage belongs to backend rocksdb", "remove it, or set backend: rocksdb"


def _young_fields(spec: Document) -> Iterator[tuple[str, str]]:
    policy = spec.get("networkPolicy") or {}
    known = {group.get("groupName") for group in spec.get("workerGroupSpecs", [])}
    for entry in policy.get("workerGroups", []):
        if entry.get("groupName") not in known:
            yield f"networkPolicy names the group {entry.get('groupName')}, which is not there", f"use one of {sorted(known)}"
    if (spec.get("tlsOptions") or {}).get("enabled"):
        for where, group in _all_groups(spec):
            if any(name == "RAY_USE_TLS" or name.startswith("RAY_TLS_") for name in _env(group)):
                yield f"{where} sets TLS variables beside tlsOptions", "remove them"


def _job(spec: Document) -> Iterator[tuple[str, str]]:
    cluster, selector, mode = spec.get("rayClusterSpec"), spec.get("clusterSelector"), spec.get("submissionMode", "K8sJobMode")
    rules, shutdown = (spec.get("deletionStrategy") or {}).get("deletionRules"), spec.get("shutdownAfterJobFinishes", False)
    if not cluster and not selector:
        yield "neither rayClusterSpec nor clusterSelector is there", "add one of them"
    if cluster:
        yield from _cluster(cluster)
        if cluster.get("upgradeStrategy"):
            yield "rayClusterSpec.upgradeStrategy is not for the cluster of a job", "remove it"
        if (cluster.get("authOptions") or {}).get("enableK8sTokenAuth"):
            yield "authOptions.enableK8sTokenAuth is not for jobs", "use mode: token alone"
    if spec.get("suspend") and not shutdown:
        yield "suspend needs shutdownAfterJobFinishes", "set shutdownAfterJobFinishes: true"
    if spec.get("ttlSecondsAfterFinished", 0) < 0 or (spec.get("ttlSecondsAfterFinished") and not shutdown):
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes, and is at least 0", "set shutdownAfterJobFinishes: true"
    if rules is not None and shutdown:
        yield "deletionRules and shutdownAfterJobFinishes exclude each other", "keep one of them"
    if spec.get("backoffLimit", 0) < 0:
        yield f"backoffLimit is {spec['backoffLimit']}", "use 0 or more"
    if spec.get("backoffLimit", 0) > 0 and mode == "InteractiveMode":
        yield "backoffLimit must be 0 in InteractiveMode", "remove it"
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(key) is not None and spec[key] <= 0:
            yield f"{key} is {spec[key]}", "use a number above 0"
    if mode == "SidecarMode" and (spec.get("submitterPodTemplate") or spec.get("submitterConfig") or selector):
        yield "SidecarMode takes no submitterPodTemplate, submitterConfig or clusterSelector", "remove it, or use K8sJobMode"
    if selector and (spec.get("suspend") or spec.get("backoffLimit", 0) > 0):
        yield "a job on a selected cluster has neither suspend nor backoffLimit", "remove them"
    yield from _deletion(rules or [], autoscaling=bool(cluster and cluster.get("enableInTreeAutoscaling")), selected=bool(selector))


def _deletion(rules: list[Document], autoscaling: bool, selected: bool) -> Iterator[tuple[str, str]]:
    order = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
    seconds: dict[tuple[str, str], dict[str, int]] = {}
    for rule in rules:
        condition = rule.get("condition", {})
        status = ("jobStatus", condition.get("jobStatus")), ("jobDeploymentStatus", condition.get("jobDeploymentStatus"))
        key = next(((name, value) for name, value in status if value), ("", ""))
        if rule["policy"] in seconds.setdefault(key, {}):
            yield f"deletionRules has {rule['policy']} twice for {key[1]}", "keep one"
        seconds[key][rule["policy"]] = condition.get("ttlSeconds", 0)
        if rule["policy"] == "DeleteWorkers" and autoscaling:
            yield "the policy DeleteWorkers is not for a cluster with autoscaling", "use DeleteCluster"
        if rule["policy"] in ("DeleteWorkers", "DeleteCluster") and selected:
            yield f"the policy {rule['policy']} is not for a selected cluster", "use DeleteSelf"
    for (_, status), ttl in seconds.items():
        ordered = [ttl[policy] for policy in order if policy in ttl]
        if ordered != sorted(ordered):
            yield f"deletionRules for {status} delete the cluster later than the job", "sort ttlSeconds: workers, cluster, self"


def _at_least(spec: Document, version: tuple[int, int]) -> bool:
    found = re.match(r"(\d+)\.(\d+)", spec.get("rayVersion") or "")
    return bool(found) and (int(found[1]), int(found[2])) >= version
