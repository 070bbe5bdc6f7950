"""The operator's validation rules, checked before anything is sent.

KubeRay accepts any document that fits its schema, and reports a violation only by an event, not in the status
(ray-operator/controllers/ray/utils/validation.go, v1.6.1 and v1.7.0). Some rules are our own, where it would misbehave.
"""

import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from heliostat.cluster import schedule
from heliostat.cluster.errors import Invalid
from heliostat.cluster.names import Document
from heliostat.errors import UserError

Violations = Iterator[tuple[str, str]]
"""What is wrong, and the fix."""

NAME_LIMITS = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
RESOURCE_PARAMS = ("num-cpus", "num-gpus", "memory", "resources")
AUTOSCALER_V2 = "RAY_enable_autoscaler_v2"
REDIS = ("redis-password", "REDIS_PASSWORD", "RAY_REDIS_ADDRESS", "ray.io/ft-enabled", "ray.io/external-storage-namespace")
DELETES = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
DNS = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"


def check(document: Document) -> None:
    """Check the rules for a document of KubeRay.

    Raises:
        Invalid: the first violation, with field, value and fix.
    """
    for what, fix in problems(document):
        raise Invalid(f"{document['kind']} {document['metadata'].get('name', '')}: {what}", fix)


def problems(document: Document) -> Violations:
    """All violations in a document; kinds other than KubeRay's have no rules."""
    kind, spec = document.get("kind"), document.get("spec", {})
    if kind not in NAME_LIMITS:
        return
    yield from _name(document)
    rules = {"RayCluster": _cluster, "RayJob": _job, "RayCronJob": _cron, "RayService": _service}
    yield from rules[kind](spec, document["metadata"].get("annotations") or {})


def _violations(*table: tuple[object, str, str]) -> Violations:
    """The rows whose first column is true."""
    return ((what, fix) for violated, what, fix in table if violated)


def _name(document: Document) -> Violations:
    name, limit = document["metadata"].get("name", ""), NAME_LIMITS[document["kind"]]
    if len(name) > limit:
        yield f"metadata.name has {len(name)} characters", f"use at most {limit}"
    if name and not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"metadata.name is {name}", "use lowercase letters, digits and '-', starting with a letter"


def _cluster(spec: Document, annotations: Document) -> Violations:
    for rule in (_groups, _ray_parameters, _autoscaling, _auth, _network, _managed):
        yield from rule(spec)
    yield from _fault_tolerance(spec, annotations)


def _all_groups(spec: Document) -> Iterator[tuple[str, Document]]:
    yield "headGroupSpec", spec.get("headGroupSpec", {})
    for group in spec.get("workerGroupSpecs", []):
        yield f"workerGroupSpecs[{group.get('groupName')}]", group


def _pod(group: Document) -> Any:
    return group.get("template", {}).get("spec", {})


def _container(group: Document) -> Document:
    """The Ray container, which is the first one."""
    return next(iter(_pod(group).get("containers", [])), {})


def _env(container: Document) -> dict[str, Any]:
    return {e["name"]: e.get("value") for e in container.get("env", [])}


def _mounts(container: Document) -> list[str]:
    return [mount.get("mountPath", "").rstrip("/") for mount in container.get("volumeMounts", [])]


def _groups(spec: Document) -> Violations:
    names = [group.get("groupName", "") for group in spec.get("workerGroupSpecs", [])]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"workerGroupSpecs has two groups named {name}", "give each a name of its own"
    for group in spec.get("workerGroupSpecs", []):
        name, least, most = group.get("groupName", ""), group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if not re.fullmatch(DNS, name.lower()):
            yield f"groupName is {name!r}, which cannot be part of a pod's name", "use letters, digits and '-'"
        if least < 0 or most < 0:
            yield f"{name}: minReplicas {least} or maxReplicas {most} is negative", "use 0 or more"
        if least > most:
            yield f"{name}: minReplicas is {least}, but maxReplicas is {most}", f"set minReplicas to at most {most}"
        if not least <= group.get("replicas", least) <= most and not spec.get("enableInTreeAutoscaling"):
            yield f"{name}: replicas is {group['replicas']}, outside of {least} to {most}", "set it within these limits"


def _ray_parameters(spec: Document) -> Violations:
    for where, group in _all_groups(spec):
        if not _container(group):
            yield f"{where}.template has no container", "add the Ray container"
        params = group.get("rayStartParams") or {}
        twice = next((key for key in RESOURCE_PARAMS if key in params), None)
        if twice and group.get("resources"):
            yield f"{where} has rayStartParams.{twice} and resources", "keep one of the two"
        if "labels" in params:
            yield f"{where} has rayStartParams.labels", "use the group's labels"
        for key, value in (group.get("labels") or {}).items():
            if not re.fullmatch(rf"({DNS}(\.{DNS})*/)?{WORD}", key) or not re.fullmatch(rf"({WORD})?", str(value)):
                yield f"{where}.labels has {key}: {value}", "use letters, digits, '-', '_' and '.', at most 63"


def _autoscaling(spec: Document) -> Violations:
    options, on = spec.get("autoscalerOptions") or {}, bool(spec.get("enableInTreeAutoscaling"))
    version, env = options.get("version"), _env(_container(spec.get("headGroupSpec", {})))
    by_env = env.get(AUTOSCALER_V2) in ("1", "true")
    v2 = version == "v2" or by_env
    yield from _violations(
        (on and version and AUTOSCALER_V2 in env,
         f"autoscalerOptions.version and the head's {AUTOSCALER_V2} are both set", "keep autoscalerOptions.version"),
        (by_env and not on, f"the head's {AUTOSCALER_V2} is set without enableInTreeAutoscaling", "set that to true"),
    )  # fmt: skip
    for where, group in [("autoscalerOptions", options), *_all_groups(spec)]:
        policy, idle = _pod(group).get("restartPolicy", "Never"), group.get("idleTimeoutSeconds")
        yield from _violations(
            (on and v2 and policy != "Never", f"{where} has restartPolicy {policy} with autoscaler v2", "set it to Never"),
            (on and group.get("suspend"), f"{where}.suspend is set together with autoscaling", "remove it"),
            ((idle or 0) < 0, f"{where}.idleTimeoutSeconds is {idle}", "use 0 or more"),
            (idle is not None and not v2 and group is not options,
             f"{where}.idleTimeoutSeconds needs autoscaler v2", "set autoscalerOptions.version: v2"),
            (group.get("priority") and not (v2 and _at_least(spec, (2, 56))),
             f"{where}.priority needs autoscaler v2 and rayVersion 2.56", "set both"),
        )  # fmt: skip


def _auth(spec: Document) -> Violations:
    options, version = spec.get("authOptions") or {}, spec.get("rayVersion")
    token, of_kubernetes = options.get("mode") == "token", options.get("enableK8sTokenAuth")
    yield from _violations(
        ("authOptions" in spec and "mode" not in options, "authOptions has no mode and is off", "set authOptions.mode: token"),
        (token and not _at_least(spec, (2, 52)),
         f"authOptions.mode is token, but rayVersion is {version}", "set rayVersion to 2.52 or later"),
        (of_kubernetes and not token, "authOptions.enableK8sTokenAuth needs mode token", "set authOptions.mode: token"),
        (of_kubernetes and options.get("secretName"), "authOptions has enableK8sTokenAuth and secretName", "remove secretName"),
        (of_kubernetes and not _at_least(spec, (2, 55)),
         f"authOptions.enableK8sTokenAuth needs rayVersion 2.55, not {version}", "use a later Ray"),
    )  # fmt: skip


def _fault_tolerance(spec: Document, annotations: Document) -> Violations:
    name = "gcsFaultToleranceOptions"
    group, options = spec.get("headGroupSpec", {}), spec.get(name) or {}
    on, head, params = name in spec, _container(group), group.get("rayStartParams") or {}
    marked = str(annotations.get("ray.io/ft-enabled", "")).lower() == "true"
    storage, rocksdb, env = options.get("storage") or {}, options.get("backend") == "rocksdb", _env(head)
    made = " and ".join(key for key in ("size", "storageClassName", "accessModes") if key in storage)
    yield from _violations(
        ({"redis-username", "REDIS_USERNAME"} & {*params, *env}, "the head names a Redis user", f"use {name}.redisUsername"),
        ("RAY_REDIS_ADDRESS" in env and not on and not marked, "the head sets RAY_REDIS_ADDRESS", f"use {name}.redisAddress"),
        *((on and key in {**env, **params, **annotations}, f"{key} is set together with {name}", "remove it") for key in REDIS),
        (storage and not rocksdb, f"{name}.storage belongs to backend rocksdb", "set backend: rocksdb"),
        (rocksdb and any(key.startswith("redis") for key in options), f"{name} has rocksdb and redis settings", "remove these"),
        (rocksdb and any(key.startswith("RAY_gcs_storage") for key in env), "the head sets RAY_gcs_storage", "remove it"),
        (rocksdb and "/data/gcs" in _mounts(head), "the head mounts a volume at /data/gcs, which KubeRay reserves", "move it"),
        ("claimName" in storage and made, f"{name}.storage has claimName and {made}", "keep one"),
    )  # fmt: skip


def _network(spec: Document) -> Violations:
    policy = spec.get("networkPolicy") or {}
    known = {group.get("groupName") for group in spec.get("workerGroupSpecs", [])}
    parts = [policy.get("head") or {}, policy.get("worker") or {}, *policy.get("workerGroups", [])]
    for mode, kind in (("DenyAllEgress", "ingress"), ("DenyAllIngress", "egress")):
        if policy.get("mode") == mode and any(key.lower().startswith(kind) for part in parts for key in part):
            yield f"networkPolicy has {kind} rules, but mode {mode}", "set mode: DenyAll, or remove them"
    for name in {entry.get("groupName") for entry in policy.get("workerGroups", [])} - known:
        yield f"networkPolicy names the group {name}, which does not exist", f"use one of {sorted(known)}"


def _managed(spec: Document) -> Violations:
    """Fields that KubeRay sets itself, and the needs of its history server."""
    tls = (spec.get("tlsOptions") or {}).get("enabled")
    history = (spec.get("historyServerOptions") or {}).get("collectorOptions")
    groups = [(where, _container(group)) for where, group in _all_groups(spec)]
    for where, container in [*groups, ("autoscalerOptions", spec.get("autoscalerOptions") or {})]:
        names = _env(container)
        yield from _violations(
            ("KUBERAY_GEN_AUTOSCALER_START_CMD" in names, f"{where} sets KUBERAY_GEN_AUTOSCALER_START_CMD", "remove it"),
            (tls and any(re.match("RAY_USE_TLS|RAY_TLS_", name) for name in names),
             f"{where} sets TLS variables together with tlsOptions", "remove them"),
            (tls and "/etc/ray/tls" in _mounts(container), f"{where} mounts a volume at /etc/ray/tls", "move it"),
        )  # fmt: skip
    if history is not None and not (history.get("image") and _env(history).get("STORAGE_BACKEND")):
        yield "historyServerOptions.collectorOptions needs image, and STORAGE_BACKEND in env", "set both"


def _owned_cluster(spec: Document, annotations: Document, kind: str) -> Violations:
    yield from _cluster(spec, annotations)
    if spec.get("upgradeStrategy"):
        yield f"upgradeStrategy is not for the cluster of a {kind}", "remove it"
    if (spec.get("authOptions") or {}).get("enableK8sTokenAuth"):
        yield f"authOptions.enableK8sTokenAuth is not for a {kind}", "use mode: token alone"


def _job(spec: Document, annotations: Document) -> Violations:
    cluster, selector, mode = spec.get("rayClusterSpec"), spec.get("clusterSelector"), spec.get("submissionMode", "K8sJobMode")
    shutdown, suspend = spec.get("shutdownAfterJobFinishes", False), spec.get("suspend")
    ttl, backoff = spec.get("ttlSecondsAfterFinished") or 0, spec.get("backoffLimit") or 0
    sidecar, selected = mode == "SidecarMode", bool(selector)
    policy = _pod((cluster or {}).get("headGroupSpec", {})).get("restartPolicy", "Never")
    if cluster:
        yield from _owned_cluster(cluster, annotations, "job")
    yield from _violations(
        (not cluster and not selected, "neither rayClusterSpec nor clusterSelector is set", "add one of them"),
        (selector and not selector.get("ray.io/cluster"), "clusterSelector names no cluster", "set its ray.io/cluster"),
        (selected and suspend, "a job on a selected cluster cannot be suspended", "remove suspend"),
        (selected and backoff > 0, "a job on a selected cluster cannot be retried", "remove backoffLimit"),
        (suspend and not shutdown, "suspend needs shutdownAfterJobFinishes", "set that to true"),
        (ttl and not shutdown, "ttlSecondsAfterFinished needs shutdownAfterJobFinishes", "set that to true"),
        *((number < 0, f"{key} is {number}", "use 0 or more")
          for key, number in (("ttlSecondsAfterFinished", ttl), ("backoffLimit", backoff))),
        (backoff > 0 and mode == "InteractiveMode", "backoffLimit must be 0 in InteractiveMode", "remove it"),
        *((spec.get(key) is not None and spec[key] <= 0, f"{key} is {spec.get(key)}", "use a number above 0")
          for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds")),
        *((sidecar and spec.get(key), f"SidecarMode takes no {key}", "remove it, or use K8sJobMode")
          for key in ("submitterPodTemplate", "submitterConfig", "clusterSelector")),
        (sidecar and policy != "Never", f"the head has restartPolicy {policy} in SidecarMode", "set restartPolicy: Never"),
        (not _is_mapping(spec.get("runtimeEnvYAML") or "{}"), "runtimeEnvYAML is not a YAML mapping", "correct it"),
    )  # fmt: skip
    if spec.get("deletionStrategy") is not None:
        autoscaling = bool(cluster and cluster.get("enableInTreeAutoscaling"))
        yield from _deletion(spec["deletionStrategy"], shutdown, autoscaling, selected)


def _deletion(strategy: Document, shutdown: bool, autoscaling: bool, selected: bool) -> Violations:
    rules, old = strategy.get("deletionRules") or [], [strategy.get(key) for key in ("onSuccess", "onFailure")]
    policies = [rule.get("policy") for rule in [*rules, *filter(None, old)]]
    seconds: dict[str, dict[str, int]] = {}
    for rule in rules:
        condition = rule.get("condition", {})
        statuses = [f"{key} {condition[key]}" for key in ("jobStatus", "jobDeploymentStatus") if condition.get(key)]
        policy, ttl, status = rule.get("policy", ""), condition.get("ttlSeconds", 0), " and ".join(statuses)
        yield from _violations(
            (len(statuses) != 1, f"deletionRules has {policy} for {status or 'no status'}",
             "give each rule one of jobStatus and jobDeploymentStatus"),
            (ttl < 0, f"deletionRules has ttlSeconds {ttl}", "use 0 or more"),
            (policy in seconds.setdefault(status, {}), f"deletionRules has {policy} twice for {status}", "keep one"),
        )  # fmt: skip
        seconds[status][policy] = ttl
    ordered = {status: [ttls[policy] for policy in DELETES if policy in ttls] for status, ttls in seconds.items()}
    yield from _violations(
        (not rules and None in old, "deletionStrategy has neither rules nor both onSuccess and onFailure", "add deletionRules"),
        (rules and any(old), "deletionStrategy has deletionRules and onSuccess or onFailure", "keep deletionRules"),
        (rules and shutdown, "deletionRules and shutdownAfterJobFinishes exclude each other", "keep one of them"),
        (shutdown and "DeleteNone" in policies, "the policy DeleteNone contradicts shutdownAfterJobFinishes", "keep one"),
        (autoscaling and "DeleteWorkers" in policies, "the policy DeleteWorkers excludes autoscaling", "use DeleteCluster"),
        *((selected and policy in policies, f"the policy {policy} is not for a selected cluster", "use DeleteSelf")
          for policy in ("DeleteWorkers", "DeleteCluster")),
        *((ttls != sorted(ttls), f"deletionRules for {status} delete the cluster later than the job",
           "sort ttlSeconds: workers, cluster, self") for status, ttls in ordered.items()),
    )  # fmt: skip


def _cron(spec: Document, _: Document) -> Violations:
    try:
        schedule.parse(spec.get("schedule", ""))
    except UserError as error:
        yield error.what.replace("--cron", "schedule"), error.fix.replace("--cron ", "schedule: ")
    yield from _job(spec.get("jobTemplate", {}), {})


def _service(spec: Document, annotations: Document) -> Violations:
    cluster, delay = spec.get("rayClusterConfig", {}), spec.get("rayClusterDeletionDelaySeconds", 0)
    service = cluster.get("headGroupSpec", {}).get("headService") or {}
    yield from _owned_cluster(cluster, annotations, "service")
    yield from _violations(
        (service.get("metadata", {}).get("name"), "headService.metadata.name is set, and KubeRay chooses it", "remove it"),
        (delay < 0, f"rayClusterDeletionDelaySeconds is {delay}", "use 0 or more"),
    )


def _is_mapping(text: str) -> bool:
    try:
        return isinstance(YAML(typ="safe", pure=True).load(text), dict)
    except YAMLError:
        return False


def _at_least(spec: Document, version: tuple[int, int]) -> bool:
    found = re.match(r"v?(\d+)\.(\d+)", spec.get("rayVersion") or "")
    return found is not None and (int(found[1]), int(found[2])) >= version
