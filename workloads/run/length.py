"""How long a run is: its order of samples, its steps, and what becomes of one that is made longer or shorter."""

from heliostat.datasets import Dataset, Order, Order1
from heliostat.errors import UserError
from heliostat.wording import counted
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.optimization.schedule import learning_rate
from heliostat.workloads.run.record import NEWEST_ORDER, Result

ORDERS: dict[int, type[Order]] = {1: Order1, 2: Order}
"""The versions of the order of samples; a run keeps the one that it was started with."""


def lanes_of(config: TrainConfig, version: int = NEWEST_ORDER) -> int:
    """The lanes of a new run in an order of that version."""
    return config.lanes or ORDERS[version].default_lanes(config.global_batch)


def order_of(config: TrainConfig, dataset: Dataset, version: int = NEWEST_ORDER, lanes: int | None = None) -> Order:
    """The order in which a run reads the train split of its dataset; by default that of a new run."""
    rows = tuple(shard.rows for shard in dataset.index.splits["train"])
    lanes = lanes or lanes_of(config, version)
    return ORDERS[version](rows, dataset.index.fingerprint, config.seed, config.global_batch, lanes, config.drop_last)


def steps_of(config: TrainConfig, order: Order) -> int:
    """The steps of the whole run."""
    return config.steps or (config.epochs or 0) * order.epoch_steps


def check_dataset(config: TrainConfig, order: Order) -> None:
    """Raise `UserError` if an epoch has no step."""
    if order.epoch_steps == 0:
        raise UserError(
            f"global_batch is {config.global_batch}, but the train split has {counted(order.total, 'sample')} and "
            "drop_last is set",
            f"set global_batch to at most {order.total}",
        )


def small(config: TrainConfig, order: Order) -> list[str]:
    """The note of a train split that is smaller than a batch, if it is."""
    if config.global_batch <= order.total or config.by_rounds:
        return []
    return [
        f"global_batch is {config.global_batch}, but the train split has {counted(order.total, 'sample')}: each step is a "
        "whole epoch, "
        f"of {order.total:,}"
    ]


def longer(config: TrainConfig, old: TrainConfig, before: int, total: int, step: int) -> str:
    """The note of a run that becomes longer: its learning rate is from now on that of a run of the new length."""
    if config.by_rounds:
        return f"the run is trained for longer: {counted(total, 'round')} instead of {before:,}"
    was = learning_rate(min(step, before - 1), before, old.optimizer)  # a schedule has no rate after the last step
    now = learning_rate(step, total, config.optimizer)
    there = f"{now:.3g} instead of {was:.3g}" if now != was else f"{now:.3g} with both"
    return (
        f"the run is trained for longer: {counted(total, 'step')} instead of {before:,}; the learning rate follows the "
        f"schedule of {total:,} "
        f"steps from step {step} on, where it is {there}"
    )


def result_of(config: TrainConfig, old: TrainConfig, total: int, before: int, result: Result | None) -> Result | None:
    """The result of a run if it has nothing left to do, for a config of ``total`` steps where it had ``before``.

    Raises:
        UserError: it has fewer steps now, or more that it would not make.
    """
    name = config.name
    if total < before:
        raise UserError(
            f"run {name!r} has {counted(before, 'step')}, and cannot be made shorter: {_length(config)} gives {total}",
            f"set {_length(old)} or more, or give this run another name (--set name=...)",
        )
    if result is None:
        return None
    stopped_early = result.step < before
    if stopped_early and (config.early_stopping, config.callbacks) != (old.early_stopping, old.callbacks):
        return None
    if stopped_early and total > before:
        by = result.message or "early_stopping"
        raise UserError(
            f"run {name!r} was ended by {by} at step {result.step} of {before}: with {total} it would end there, too",
            "change or remove that callback" if result.message else "set early_stopping to null, or to a larger patience",
        )
    return result.model_copy(update={"already": True}) if total == before or stopped_early else None


def _length(config: TrainConfig) -> str:
    return f"steps: {config.steps}" if config.steps else f"epochs: {config.epochs}"
