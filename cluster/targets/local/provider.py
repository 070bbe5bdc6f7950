"""Node provider for Ray's autoscaler in a local cluster: nodes are processes, each with its own folder as a pod has a disk.

Ray's provider of fake nodes, which this one extends, gives all nodes the same folder: there each new node deletes the working
directory of running jobs, and unpacks it again (Ray 2.60). The head gets a copy of this file, so it imports nothing of ours.
"""

import os
import shutil
from typing import Any

from ray._private.node import Node
from ray._private.parameter import RayParams
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)


class Provider(FakeMultiNodeProvider):  # type: ignore[misc]  # Ray is not typed
    """Starts and stops nodes."""

    def _create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: dict[str, Any], labels: dict[str, str]
    ) -> None:
        with self.lock:
            self._next_node_id += 1
            group = tags[TAG_RAY_USER_NODE_TYPE]
            name = f"{group}-{self._next_node_id}"
            # Short, because the paths of sockets are limited.
            folder = os.path.join(self.provider_config["scratch"], str(self._next_node_id))
            amounts = dict(resources)
            for variable in self.provider_config["of_head"]:
                os.environ.pop(variable, None)  # this process has the head's, and nodes inherit its own
            parameters = RayParams(
                gcs_address=self._gcs_address,
                num_cpus=amounts.pop("CPU", 0),
                num_gpus=amounts.pop("GPU", 0),
                memory=amounts.pop("memory", None),
                object_store_memory=amounts.pop("object_store_memory", None),
                resources=amounts,
                labels=labels,
                temp_dir=folder,
                min_worker_port=0,
                max_worker_port=0,
                dashboard_port=None,
                dashboard_agent_listen_port=0,
                env_vars={
                    **self.provider_config["environments"][group],
                    "RAY_CLOUD_INSTANCE_ID": name,
                    "RAY_NODE_TYPE_NAME": group,
                    # Without metrics of its own, which would take time from the training beside it.
                    "RAY_enable_metrics_collection": "0",
                },
            )
            node = Node(parameters, head=False, shutdown_at_exit=False, spawn_reaper=False)
            own = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}
            self._nodes[name] = {"tags": {**tags, **own}, "node": node, "folder": folder}

    def _terminate_node(self, node: dict[str, Any]) -> None:
        super()._terminate_node(node)
        shutil.rmtree(node["folder"], ignore_errors=True)
