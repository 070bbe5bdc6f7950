"""How the workers that Ray Train has started become a process group."""

from typing import TYPE_CHECKING

import ray
import ray.train

from heliostat.workloads.config import TrainConfig
from heliostat.workloads.ray_train.broadcast import broadcast_from_rank_zero, forget

if TYPE_CHECKING:
    from heliostat.workloads.training.distributed import Ranks


def joined(config: TrainConfig) -> "Ranks":
    """Forms the process group of a run's workers, and returns this worker's ranks.

    Raises:
        UserError: torch cannot use the GPU that the worker holds.
        RuntimeError: some workers did not join in time.
    """
    from heliostat.workloads.training.distributed import Ranks, check_gpu, join
    from heliostat.workloads.training.rendezvous import on_one_machine

    if config.resources.gpu:
        check_gpu()
    context = ray.train.get_context()
    rank, world, seconds = context.get_world_rank(), context.get_world_size(), 60 * config.hang_minutes
    node = ray.util.get_node_ip_address()
    alone = on_one_machine(node, context.get_local_world_size(), world)
    try:
        join(rank, world, node, alone, lambda value: broadcast_from_rank_zero(rank, world, value, seconds), seconds)
    finally:
        forget(rank)
    return Ranks.of_this_process(cuda=config.resources.gpu != 0)
