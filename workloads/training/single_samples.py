"""Finds the batches of which a worker computes a single sample, from which batch norm cannot compute a variance."""

from heliostat.datasets.order import Order
from heliostat.errors import UserError
from heliostat.workloads.config import TrainConfig


def find_single_samples(config: TrainConfig, order: Order, total: int, world: int, synchronized: bool) -> UserError | None:
    """The error of a run that computes a single sample at once; None if it never does.

    Args:
        config: of the run.
        order: of its samples.
        total: its steps.
        world: the world size now; an elastic run may have others.
        synchronized: whether batch norm sees the samples of all workers at once.
    """
    problems = []
    for step in sorted({0, order.epoch_steps - 1}):
        for workers in sorted({world, *range(config.least_workers, config.most_workers + 1)}):
            if step < total and 1 in _sizes(config, order, step, workers, synchronized):
                problems.append(_problem(config, order, step, workers))
                break
    if not problems:
        return None
    lines = "".join(f"\n    {what}" for what, _ in problems)
    return UserError(
        f"the model's batch norm needs at least 2 samples at once, but gets a single one from{lines}",
        ", and ".join(dict.fromkeys(fix for _, fix in problems)),
    )


def _sizes(config: TrainConfig, order: Order, step: int, workers: int, synchronized: bool) -> set[int]:
    """How many samples batch norm sees at once in a step of an epoch."""
    size = config.micro_batch or order.largest_part(workers)
    rows = order.part_sizes(step, workers)
    if synchronized:
        return {sum(min(size, max(0, row - start)) for row in rows) for start in range(0, max(rows), size)}
    return {min(size, row - start) for row in rows for start in range(0, row, size)}


def _problem(config: TrainConfig, order: Order, step: int, workers: int) -> tuple[str, str]:
    """The batch in words, and the fix."""
    size = config.micro_batch or order.largest_part(workers)
    if order.batch_size(step) < order.global_batch:
        what, fix = f"the last batch of an epoch, of {order.batch_size(step)}", "set drop_last to true, or change global_batch"
    elif config.micro_batch:
        what, fix = f"a batch of {order.global_batch}", "set micro_batch to null, or to a larger divisor of a worker's share"
    else:
        what, fix = f"a batch of {order.global_batch}", "use fewer workers, or a larger global_batch"
    if workers > 1 and 1 not in _sizes(config, order, step, workers, synchronized=True):
        fix += ", or set sync_batchnorm to true"
    return f"{what} (workers {workers}, micro-batches of {size})", fix
