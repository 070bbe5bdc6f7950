"""Configuration of Ray for nodes of a profile that are processes on this machine: pure functions."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heliostat import cluster
from heliostat.cluster import in_process
from heliostat.cluster.documents.pods import priority_of, ray_labels
from heliostat.cluster.field_types import size
from heliostat.cluster.pod import SecretKey
from heliostat.cluster.ports import HOST
from heliostat.cluster.profile import Profile, WorkerGroup, ray_resources
from heliostat.environment import NODES, STORAGE

LOCAL = "local"
"""Stands for the namespace in the path of a record of nodes."""
HEAD = "head"
"""The node name of the head."""
RAY = str(Path(cluster.__file__).with_name("ray_node.py"))
"""Stands for the command ``ray``; as a file, because the head may not find our packages."""
HEAD_TYPE = "ray.head.default"
"""The node type of the head, which Ray prescribes."""
PROVIDER = "heliostat_provider"
"""The module name of `heliostat.cluster.targets.local.provider` for the head's autoscaler."""
PORTS = ("gcs", "dashboard", "agent", "client", "metrics", "metrics_agent", "exporter", "recorder")
"""The ports of a head. Of metrics: ``metrics`` has the autoscaler's; ``metrics_agent`` takes those of the head's processes, and
``exporter`` has them for Prometheus; ``recorder`` has these and those of the groups."""
NOT_OF_CLUSTERS = ("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "RAY_enable_metrics_collection")
"""Settings of a Ray for one command that a cluster's does not have."""
CLUSTER_FOLDER = "RAY_TMPDIR"
"""The environment variable with the cluster's folder, which all its processes have."""
SETTINGS = {
    # Nodes are removed here while work runs on them, so that the preemption watcher is needed. The head has metrics, because
    # drivers export theirs by its agent; the other nodes have none: `heliostat.cluster.targets.local.provider`.
    **{name: value for name, value in in_process.SETTINGS.items() if name not in NOT_OF_CLUSTERS},
    "RAY_enable_autoscaler_v2": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    # Otherwise the server of a Ray Client session may crash on a fork (ray#63202; a third of the time with Ray 2.60).
    "GRPC_ENABLE_FORK_SUPPORT": "0",
}
NO_COMMANDS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands",
    "worker_start_ray_commands", "cluster_synced_files",
)  # fmt: skip


def autoscaling(profile: Profile, gcs_port: int, scratch: str) -> dict[str, Any]:
    """The autoscaler's configuration, with the worker groups as node types."""
    return {
        "cluster_name": profile.name,
        "max_workers": sum(group.max for group in profile.groups),
        "idle_timeout_minutes": max(group.idle_seconds for group in profile.groups) / 60,
        "upscaling_speed": 1000.0,
        "provider": {
            "type": "external",
            "module": f"{PROVIDER}.Provider",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": HEAD,
            "gcs_address": f"127.0.0.1:{gcs_port}",
            "scratch": scratch,
            "of_head": sorted(profile.head.env),
            "environments": {group.name: _environment_of(profile, group) for group in profile.groups},
        },
        "available_node_types": {
            **{group.name: _node_type(group) for group in profile.groups},
            HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        },
        "head_node_type": HEAD_TYPE,
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{key: [] for key in NO_COMMANDS},
    }


def _node_type(group: WorkerGroup) -> dict[str, Any]:
    resources = {name: int(amount) for name, amount in ray_resources(group).items() if amount}
    return {
        "resources": {**resources, "memory": size(group.memory), "object_store_memory": in_process.OBJECT_STORE},
        # Ray 2.60 would set the head's group on all nodes.
        "labels": {"ray.io/node-group": group.name, **ray_labels(group)},
        "node_config": {},
        "min_workers": group.min,
        "max_workers": group.max,
        "idle_timeout_s": group.idle_seconds,
        "priority": priority_of(group),
    }


def _environment_of(profile: Profile, group: WorkerGroup) -> dict[str, str]:
    """What the nodes of a group have in another way than the head: they inherit the rest from it."""
    return _texts({**{name: value for name, value in profile.env.items() if name in profile.head.env}, **group.env})


def _texts(variables: Mapping[str, str | SecretKey]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if isinstance(value, str)}  # a local profile names no Secret


def command(profile: Profile, ports: Mapping[str, int], config: Path) -> list[str]:
    """The command that starts the head, which starts everything else."""
    flags = {
        "port": ports["gcs"],
        "dashboard-port": ports["dashboard"],
        "dashboard-agent-listen-port": ports["agent"],
        "ray-client-server-port": ports["client"],
        "autoscaling-config": config,
        "num-cpus": 0,
        "num-gpus": 0,
        "resources": json.dumps({"driver": profile.head.drivers}),
        "object-store-memory": in_process.OBJECT_STORE,
        # Any free ones: other clusters may run here, and the default range may include the client's port.
        "min-worker-port": 0,
        "max-worker-port": 0,
        # Given, because the raylet does not wait for the agent's own choice, and without them drivers export no metrics.
        "dashboard-agent-grpc-port": ports["metrics_agent"],
        "metrics-export-port": ports["exporter"],
        "log-color": "false",
    }
    # -P: the working directory may have packages with the names of Ray's.
    start = [sys.executable, "-P", RAY, "start", "--head", "--block", "--disable-usage-stats"]
    return [*start, *(f"--{name}={value}" for name, value in flags.items())]


def environment(
    profile: Profile, ports: Mapping[str, int], scratch: str, storage: str, inherited: Mapping[str, str]
) -> dict[str, str]:
    """The environment of the head, which all nodes and jobs inherit, without variables of another Ray."""
    base = {
        **{name: value for name, value in inherited.items() if not name.startswith(("RAY_", "HELIOSTAT_"))},
        **SETTINGS,
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(300 + profile.slowest_start),
        STORAGE: storage,
        NODES: json.dumps(profile.capacity),
        **_texts(profile.env),
        **_texts(profile.head.env),
    }
    return {
        **base,
        # So that `python` in a job is this one.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{base.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(filter(None, [base.get("PYTHONPATH"), modules(scratch)])),
        CLUSTER_FOLDER: scratch,
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_NODE_TYPE_NAME": HEAD_TYPE,
        "AUTOSCALER_METRIC_PORT": str(ports["metrics"]),
    }


def modules(scratch: str) -> str:
    """The folder of the provider's module."""
    return f"{scratch}/python"


def prometheus(name: str, ports: Mapping[str, int]) -> dict[str, Any]:
    """A configuration of Prometheus (YAML may be JSON) that scrapes the cluster and has the alert rules."""
    targets = [f"{HOST}:{ports[port]}" for port in ("recorder", "metrics")]
    return {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": [str(Path(cluster.__file__).with_name("dashboards") / "alerts.yaml")],
        # The label that pods of a cluster have from KubeRay.
        "scrape_configs": [
            {"job_name": "heliostat", "static_configs": [{"targets": targets, "labels": {"ray_io_cluster": name}}]}
        ],
    }
