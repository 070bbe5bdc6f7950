"""Ray Train's trainer without the steps that delay a run's start by seconds (Ray 2.60).

Ray Train starts four processes besides the workers, waits for two of them, and starts a new process for each worker although
Ray has idle ones: a third of the time to the first step.
"""

import os
from collections.abc import Mapping
from typing import Any

import ray
import ray._private.worker
from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR as WARN_BLOCKING
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
CONTROLLER_VARIABLES = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", START_TIMEOUT, PREEMPTION_WATCHER, WARN_BLOCKING}
"""Environment variables that only the controller reads."""


class Group(WorkerGroup):  # type: ignore[misc]  # Ray Train has no types
    """Workers in Ray's idle processes.

    With a runtime environment, which Ray Train sets for variables that only its controller reads, each worker would need a
    new process.
    """

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> dict[str, Any]:
        whole = WorkerGroup._get_worker_runtime_env(custom_runtime_env)
        variables = {name: value for name, value in whole.pop("env_vars").items() if name not in CONTROLLER_VARIABLES}
        return {**whole, "env_vars": variables} if variables else whole


class Controller(TrainController):  # type: ignore[misc]
    """Ray Train's controller, which gets the driver's settings as an argument, for the same reason."""

    worker_group_cls = Group

    def __init__(self, environment: Mapping[str, str], **arguments: Any) -> None:
        os.environ.update(environment)
        super().__init__(**arguments)


class Fixed(FixedScalingPolicy):  # type: ignore[misc]
    """A fixed number of workers, requested by their placement group alone: the other request needs one more process."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class Trainer(DataParallelTrainer):  # type: ignore[misc]
    """A DataParallelTrainer that starts only what a run needs.

    It is no TorchTrainer, whose controller imports torch before it does anything; the workers form their process group
    themselves, see `heliostat.workloads.training.distributed.join`.

    Args:
        policies: ``scaling_policy`` and ``failure_policy``, which replace Ray Train's own.
        options: what Ray's DataParallelTrainer takes.
    """

    def __init__(self, *args: Any, policies: Mapping[str, Any], **options: Any) -> None:
        super().__init__(*args, **options)
        self._policies = policies

    def _create_default_callbacks(self) -> list[Any]:
        # Each starts a process for every worker group. The first one's hands out Ray Data's shards, of which there are none.
        needless: list[type] = [DatasetsCallback]
        if ray._private.worker.global_worker.mode == ray._private.worker.SCRIPT_MODE:
            # Placement groups are removed when this process exits: they need no process that cleans up.
            needless.append(PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, tuple(needless))]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        controller = ray.remote(num_cpus=0, label_selector=here)(Controller).remote(
            {WARN_BLOCKING: "0", **get_env_vars_to_propagate()}, **{**arguments, **self._policies}
        )
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())
