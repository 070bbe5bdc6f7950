"""The private parts of Ray's autoscaler (v2, Ray 2.60) that decide how many nodes there are, without a cluster.

tests/cluster/planner/test_replay.py fails when they change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from heliostat.cluster.documents.manifests import ray_cluster
from heliostat.cluster.profile import Profile

HEAD = "headgroup"


@dataclass(frozen=True)
class NodeView:
    """A node as the autoscaler sees it."""

    id: str
    group: str
    up: bool
    free: float
    """GPUs, or CPUs in a group without GPUs."""
    idle_seconds: float | None
    """How long it has had no work; None if it has some, or is not up."""


@dataclass(frozen=True)
class Decision:
    """What the autoscaler does."""

    launch: dict[str, int]
    """New nodes by group."""
    terminate: list[str]
    """Ids of nodes."""


class RayScheduler:
    """Ray's ``ResourceDemandScheduler`` with the node types of a profile's own Kubernetes document."""

    def __init__(self, profile: Profile) -> None:
        from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
        from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

        document = ray_cluster(profile)
        document["metadata"].setdefault("namespace", "default")
        derived = _derive_autoscaling_config_from_ray_cr(document)
        self._config = AutoscalingConfig(derived, skip_content_hash=True)
        self._types = self._config.get_node_type_configs()
        self._resource = {group.name: "GPU" if group.gpu else "CPU" for group in profile.groups}

    def decide(self, nodes: Sequence[NodeView], demands: Sequence[tuple[str, Sequence[float]]]) -> Decision:
        """What it does now.

        Args:
            nodes: without the head.
            demands: of each job that waits the resource, ``GPU`` or ``CPU``, and how much of it each of its parts needs.
        """
        from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
        from ray.autoscaler.v2.utils import ResourceRequestUtil
        from ray.core.generated.autoscaler_pb2 import GangResourceRequest

        gangs = [
            GangResourceRequest(requests=[ResourceRequestUtil.make({resource: amount}) for amount in parts])
            for resource, parts in demands
        ]
        reply = ResourceDemandScheduler().schedule(
            SchedulingRequest(
                disable_launch_config_check=True, node_type_configs=self._types,
                max_num_nodes=self._config.get_max_num_nodes(), idle_timeout_s=self._config.get_idle_timeout_s(),
                resource_requests=[], gang_resource_requests=gangs, cluster_resource_constraints=[],
                current_instances=[self._head(), *map(self._instance, nodes)],
            )
        )  # fmt: skip
        launched = {request.instance_type: request.count for request in reply.to_launch}
        return Decision(launched, [request.instance_id for request in reply.to_terminate])

    def _head(self) -> Any:
        return self._made("head", HEAD, True, {"CPU": 0.0}, {"CPU": 0.0}, None, head=True)

    def _instance(self, node: NodeView) -> Any:
        total = {name: float(amount) for name, amount in self._types[node.group].resources.items() if name in ("CPU", "GPU")}
        free = {**total, self._resource[node.group]: node.free}
        return self._made(node.id, node.group, node.up, total, free, node.idle_seconds)

    def _made(
        self, name: str, group: str, up: bool, total: dict[str, float], free: dict[str, float], idle: float | None,
        head: bool = False,
    ) -> Any:  # fmt: skip
        from ray.autoscaler.v2.schema import AutoscalerInstance
        from ray.core.generated.autoscaler_pb2 import NodeState, NodeStatus
        from ray.core.generated.instance_manager_pb2 import Instance, NodeKind

        status = Instance.RAY_RUNNING if up else Instance.REQUESTED
        kind = NodeKind.HEAD if head else NodeKind.WORKER
        instance = Instance(instance_id=name, instance_type=group, status=status, node_kind=kind, node_id=name if up else "")
        if not up:
            return AutoscalerInstance(im_instance=instance)
        state = NodeState(
            ray_node_type_name=group, total_resources=total, available_resources=free, node_id=name.encode(),
            status=NodeStatus.RUNNING if idle is None else NodeStatus.IDLE, idle_duration_ms=int((idle or 0) * 1000),
        )  # fmt: skip
        return AutoscalerInstance(im_instance=instance, ray_node=state, cloud_instance_id=name)
