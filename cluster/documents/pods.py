"""The head and worker groups of a cluster: pod templates, resources and labels."""

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

from heliostat.cluster.names import (
    CLUSTER_LABEL,
    METRICS_PORT,
    PORTS,
    TEAM_BUDGET,
    TEAM_LIMITS,
    TEMPLATE,
    TOKEN_KEY,
    Document,
)
from heliostat.cluster.pod import Placement, PodKeys, SecretKey, Spread, Volume, merged
from heliostat.cluster.pod_override import merge, of_container
from heliostat.cluster.profile import Head, Profile, WorkerGroup
from heliostat.config import digest
from heliostat.environment import NODES_FILE, STORAGE

HEAD_GRACE = 10
"""The head does not exit on SIGTERM, so a longer grace period only delays its deletion (KubeRay 1.6.1, Ray 2.60)."""
FILES = "/opt/heliostat"
TEAM = f"{FILES}/team"
TOKEN_FOLDER = "/run/heliostat"
TOKEN_FILE = f"{TOKEN_FOLDER}/token"
SHARED_MEMORY = "shared-memory"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What the pod-security standard "restricted" requires of every container."""
CLUSTER = "HELIOSTAT_CLUSTER"
"""The variable of a head with the name of its RayCluster."""
RECORDER = "recorder"
HEADLESS_SECONDS = 600
"""For so long nodes wait for a new head, if that has the state of the one before; 60 by default."""
QUEUE_SECONDS = 7 * 86400
"""The longest time in a queue for a growing cluster's pods."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Without it Ray Client's server sometimes crashes on a fork (Ray 2.60, ray#63202).
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # A worker has its pod to itself and needs no low priority.
    "RAY_worker_niceness": "0",
}


def head_group(
    profile: Profile, name: str, files: str, standing: bool, annotated: bool = True, lasts: float | None = None
) -> Document:
    """The head group.

    Args:
        profile: of the cluster.
        name: of the cluster, or of its job.
        files: the ConfigMap with the recorder, see `heliostat.cluster.documents.manifests`; without one nothing is recorded.
        standing: whether it outlives a job; then it also has the list of possible nodes, and an idle watcher.
        annotated: whether the pod's annotations say where its metrics are.
        lasts: the seconds after which it is deleted at the latest; None: it has no time limit.
    """
    head = profile.head
    ray = _ray_container(profile, "ray-head", head)
    ray["ports"] = [{"containerPort": port, "name": port_name} for port_name, port in PORTS.items()]
    containers, volumes = [ray], list[Document]()
    if files:
        volumes.append({"name": "files", "configMap": {"name": files}})
        volumes.append({"name": "team-budget", "configMap": {"name": TEAM_BUDGET, "optional": True}})
        containers.append(_recorder(profile, ray, standing, lasts))
    if files and not standing:
        # The Secret with the token has the name that the operator gives the cluster; only Ray's container gets its value.
        volumes.append({"name": "token", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
        ray.setdefault("volumeMounts", []).append({"name": "token", "mountPath": TOKEN_FOLDER})
        write = f'umask 077; printf %s "$RAY_AUTH_TOKEN" > {TOKEN_FILE}'
        ray["lifecycle"] = {"postStart": {"exec": {"command": ["/bin/sh", "-c", write]}}}
    if standing:
        ray["env"] = each_once(ray["env"], env({NODES_FILE: f"{FILES}/nodes.json"}))
        ray.setdefault("volumeMounts", []).append({"name": "files", "mountPath": FILES})
        if profile.idle_shutdown_seconds:
            containers.append(_watcher(profile))
    template = _template(profile, name, head, containers, volumes, HEAD_GRACE)
    if annotated:
        _annotate(template, METRICS_PORT if files else PORTS["metrics"])
    document = {
        "rayStartParams": {"dashboard-host": "0.0.0.0"},
        "resources": {"CPU": "0", "driver": str(head.drivers)},
        "template": _overridden(profile, head, template),
    }
    return _with_template_hash(document, _metadata(profile, head))


def worker_group(profile: Profile, name: str, group: WorkerGroup, features: frozenset[str], annotated: bool = True) -> Document:
    """The spec of a worker group; ``annotated`` as of the head."""
    container = _ray_container(profile, "ray-worker", group)
    container["env"] = each_once(container["env"], env({"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": group.drain_seconds}))
    if group.gpu:
        for kind in ("limits", "requests"):
            container["resources"][kind][group.gpu_resource] = str(group.gpu)
    # Longer than the drain, so that a worker exits by itself and not by SIGKILL.
    template = _template(profile, name, group, [container], [], grace=group.drain_seconds + 20)
    template["spec"]["automountServiceAccountToken"] = False
    if annotated:
        _annotate(template, PORTS["metrics"])
    if group.topology_spread:
        pods = {CLUSTER_LABEL: name, "ray.io/group": group.name}
        template["spec"]["topologySpreadConstraints"] = [_spread(each, pods) for each in group.topology_spread]
    document: Document = {
        "groupName": group.name,
        "minReplicas": group.min,
        "maxReplicas": group.max,
        "labels": ray_labels(group),
        "rayStartParams": {},
        "template": _overridden(profile, group, template),
    }
    _with_template_hash(document, _metadata(profile, group))
    if not profile.autoscaled:
        return {**document, "replicas": group.max}
    document["idleTimeoutSeconds"] = group.idle_seconds
    if "priority" in features and (priority := priority_of(group)):
        document["priority"] = priority
    return document


def start_limit(profile: Profile) -> int:
    """The seconds after which a pod that has not started is given up; the time in a queue counts against no limit."""
    return QUEUE_SECONDS if profile.queue and profile.autoscaled else profile.slowest_start


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
    storage, keys = profile.storage, merged(profile, size)
    document: Document = {
        "name": container,
        **image(profile),
        "resources": resources(size.cpu, size.memory, keys.ephemeral_storage),
        "securityContext": RESTRICTED,
        "env": env({
            **SETTINGS,
            STORAGE: storage.root,
            # A placement group waits for its slowest pod; if Train timed out earlier, the autoscaler would restart each time.
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": 300 + start_limit(profile),
            **keys.env,
        }),
    }  # fmt: skip
    mounts = [{"name": "storage", "mountPath": storage.mount}] if storage.claim else []
    mounts += [_mount(volume) for volume in keys.volumes]
    if keys.shared_memory:
        mounts.append({"name": SHARED_MEMORY, "mountPath": "/dev/shm"})
    if mounts:
        document["volumeMounts"] = mounts
    if whole := [secret for _, secret, key in profile.secrets_named if key is None]:
        document["envFrom"] = [{"secretRef": {"name": secret}} for secret in whole]
    return document


def _template(
    profile: Profile, name: str, where: Placement, containers: list[Document], volumes: list[Document], grace: int
) -> Document:
    tolerations = [toleration.document for toleration in where.tolerations]
    if isinstance(where, WorkerGroup) and where.gpu:
        tolerations.append({"key": where.gpu_resource, "operator": "Exists", "effect": "NoSchedule"})
    keys = merged(profile, where)
    if profile.storage.claim:
        volumes = [{"name": "storage", "persistentVolumeClaim": {"claimName": profile.storage.claim}}, *volumes]
    spec: Document = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace,
    }
    # By default the group of the Ray images, so that their user may write to a claim.
    group = {} if profile.fs_group is None else {"fsGroup": profile.fs_group, "fsGroupChangePolicy": "OnRootMismatch"}
    for key, value in {
        "securityContext": {**user(profile), **group},
        "containers": containers,
        "serviceAccountName": keys.service_account,
        "runtimeClassName": keys.runtime_class,
        "priorityClassName": keys.priority_class,
        "nodeSelector": where.node_selector,
        "tolerations": tolerations,
        "volumes": [*volumes, *_volumes(keys)],
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
                **keys.annotations,
            },
        },
        "spec": spec,
    }


def _annotate(template: Document, port: int) -> None:
    """Say where the pod's metrics are, as many configurations of Prometheus read it; the profile's own annotations win."""
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), "prometheus.io/path": "/metrics"}
    template["metadata"]["annotations"] = {**scraped, **template["metadata"]["annotations"]}


def _overridden(profile: Profile, where: Placement, template: Document) -> Document:
    """A pod template with the overrides of the profile merged into it, those of all pods first."""
    name = template["spec"]["containers"][0]["name"]
    for override in (profile.pod, where.pod):
        template = merge(template, of_container(override, name))
    return template


def _metadata(profile: Profile, where: Placement) -> Document:
    """What the profile adds to the metadata of pods, which only new pods have."""
    labels = [(override.get("metadata") or {}).get("labels") or {} for override in (profile.pod, where.pod)]
    return {**merged(profile, where).annotations, **labels[0], **labels[1]}


def _volumes(keys: PodKeys) -> list[Document]:
    volumes = [_volume(volume) for volume in keys.volumes]
    if keys.shared_memory:
        volumes.append({"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory", "sizeLimit": keys.shared_memory}})
    return volumes


def _volume(volume: Volume) -> Document:
    server, _, path = (volume.nfs or "").partition(":")
    read_only = {"readOnly": True} if volume.read_only else {}
    sources = {
        "persistentVolumeClaim": {"claimName": volume.claim, **read_only} if volume.claim else None,
        "nfs": {"server": server, "path": path, **read_only} if volume.nfs else None,
        "hostPath": {"path": volume.host_path} if volume.host_path else None,
        "secret": {"secretName": volume.secret} if volume.secret else None,
        "configMap": {"name": volume.config_map} if volume.config_map else None,
        "emptyDir": {"sizeLimit": volume.empty_dir} if volume.empty_dir else None,
    }
    return {"name": _volume_name(volume), **{kind: source for kind, source in sources.items() if source}}


def _mount(volume: Volume) -> Document:
    document: Document = {"name": _volume_name(volume), "mountPath": volume.mount}
    if volume.sub_path:
        document["subPath"] = volume.sub_path
    if volume.read_only:
        document["readOnly"] = True
    return document


def _volume_name(volume: Volume) -> str:
    """A name that depends on the path alone, so that a diff matches volumes by it."""
    words = re.sub("[^a-z0-9]+", "-", volume.mount.lower()).strip("-")[:40].strip("-")
    return f"volume-{words}-{digest(volume.mount)[:4]}"


def _spread(spread: Spread, pods: Mapping[str, str]) -> Document:
    return {
        "maxSkew": spread.max_skew,
        "topologyKey": spread.key,
        "whenUnsatisfiable": "DoNotSchedule" if spread.required else "ScheduleAnyway",
        "labelSelector": {"matchLabels": dict(pods)},
    }


def _with_template_hash(group: Document, metadata: Document) -> Document:
    """Annotate the pods of a group with a hash of everything that needs a new pod, so that outdated ones are recognized."""
    fixed = [group["template"]["spec"], group.get("resources"), group.get("labels"), *([metadata] if metadata else [])]
    group["template"]["metadata"]["annotations"][TEMPLATE] = digest(fixed)
    return group


def _watcher(profile: Profile) -> Document:
    """The container that suspends the cluster after a time without work, with the head's service account."""
    return {
        "name": "idle-watcher",
        **image(profile),
        **run_program("idle"),
        "env": [
            *env({"CLUSTER": profile.name, "IDLE_SECONDS": profile.idle_shutdown_seconds}),
            *_own_access(profile),
        ],
    }


def _own_access(profile: Profile) -> list[Document]:
    """The variables with the namespace, and with the token of the dashboard."""
    return [
        _field("NAMESPACE", "metadata.namespace"),
        {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": {"name": profile.name, "key": TOKEN_KEY}}},
    ]


def keep_state(cluster: Document, folder: str) -> None:
    """Keep the state of Ray in a folder of the claim: a new head continues with the nodes and the replicas that there are.

    Tested with Ray 2.60, which has this in place of Redis since then; KubeRay (1.7) does the same behind a gate, of which Ray
    knows nothing. The recorder deletes the state of clusters that are gone.
    """
    own, *others = (
        group["template"]["spec"]["containers"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    )
    state = env({"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": f"{folder}/$({CLUSTER})"})
    own[0]["env"] = each_once([_field(CLUSTER, "metadata.labels['ray.io/cluster']"), *state], own[0]["env"])
    for container in own[1:]:
        if container["name"] == RECORDER:
            container["env"] = each_once(container["env"], env({"STATES": folder}))
    for containers in others:
        containers[0]["env"] = each_once(
            env({"RAY_gcs_rpc_server_reconnect_timeout_s": HEADLESS_SECONDS}), containers[0]["env"]
        )


def each_once(*lists: list[Document]) -> list[Document]:
    """The variables in lists, of one that is in several the last: the API server refuses a name twice."""
    return [*({each["name"]: each for each in chain(*lists)}.values())]


def _field(variable: str, path: str) -> Document:
    """A variable with a field of the pod."""
    return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _recorder(profile: Profile, ray: Document, standing: bool, lasts: float | None) -> Document:
    """The container that records the nodes on the storage, which it reaches as Ray does."""
    program = run_program("recorder")
    storage = [mount for mount in ray.get("volumeMounts", []) if mount["name"] == "storage"]
    credentials = [entry for entry in ray.get("envFrom", []) if profile.storage.uri]
    own = [entry for entry in env(merged(profile, profile.head).env) if profile.storage.uri]
    where = {
        "STORAGE": profile.storage.root,
        "PRICES": f"{FILES}/in_pod/prices.json",
        "LIMITS": f"{FILES}/in_pod/limits.json",
        "TEAM_LIMITS": f"{TEAM}/{TEAM_LIMITS}",
        "METRICS_PORT": str(METRICS_PORT),
        "METRICS_OF_RAY": f"http://127.0.0.1:{PORTS['metrics']}/metrics",
    }
    if standing:
        access = [*env({"CLUSTER": profile.name, **where}), *_own_access(profile)]
    else:
        storage.append({"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True})
        limit = {} if lasts is None else {"LASTS": str(int(lasts))}
        where |= {"PROFILE": profile.name, **limit, "TOKEN_FILE": TOKEN_FILE}
        access = [
            *env(where),
            _field("CLUSTER", "metadata.labels['ray.io/cluster']"),
            _field("NAMESPACE", "metadata.namespace"),
        ]
    return {
        "name": RECORDER,
        **image(profile),
        **program,
        # With an object store it imports pyarrow.
        "resources": resources("50m", "384Mi" if profile.storage.uri else "128Mi"),
        "ports": [{"containerPort": METRICS_PORT, "name": "heliostat"}],
        "volumeMounts": [*program["volumeMounts"], {"name": "team-budget", "mountPath": TEAM}, *storage],
        **({"envFrom": credentials} if credentials else {}),
        "env": each_once(own, access),
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


def resources(cpu: str, memory: str, disk: str | None = None) -> Document:
    """Memory, and space of the node's disk, with requests equal to limits, so that no pod ends for the use of another one.

    There is no CPU limit: it would throttle a pod while its node has idle cores.
    """
    both = {"memory": memory, **({"ephemeral-storage": disk} if disk else {})}
    return {"limits": both, "requests": {"cpu": cpu, **both}}


def image(profile: Profile) -> Document:
    """The image of a container, and when it is pulled."""
    policy = {"imagePullPolicy": profile.image_pull_policy} if profile.image_pull_policy else {}
    return {"image": profile.image, **policy}


def user(profile: Profile) -> Document:
    """The user and the group of all containers of a pod, as far as they are not the image's."""
    ids = {"runAsUser": profile.run_as_user, "runAsGroup": profile.run_as_group}
    return {key: value for key, value in ids.items() if value is not None}


def env(values: Mapping[str, Any]) -> list[Document]:
    """Environment variables of a container; of a Secret only its name and key are in the document."""
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": value.secret, "key": value.key}}}
        if isinstance(value, SecretKey)
        else {"name": name, "value": str(value)}
        for name, value in values.items()
    ]
