"""How a config scales: the speed of its steps on several numbers of workers, each measured for some seconds."""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
from ray.train.v2.api.exceptions import WorkerGroupError

from heliostat.datasets import Dataset
from heliostat.errors import HeliostatError, Stopped
from heliostat.interrupts import interrupts
from heliostat.modules import enter_working_dir
from heliostat.requirements import provide
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.plan import Plan
from heliostat.workloads.ray_train.failures import Failures, worker_failed
from heliostat.workloads.ray_train.joining import joined
from heliostat.workloads.ray_train.policies import ENVIRONMENT, unwrap
from heliostat.workloads.ray_train.trainer import Fixed, Trainer, scaling_of
from heliostat.workloads.run.cost import price_here
from heliostat.workloads.run.length import order_of, steps_of

POLL = 0.2


@dataclass(frozen=True)
class Speed:
    """The speed of the steps on a number of workers; shares are of the time of a step."""

    workers: int
    samples_per_second: float
    lowest: float
    highest: float
    """Of the windows whose median it is."""
    data_wait: float
    communication: float | None
    """What the workers pay for each other, see `measure_speed`; None where it is not known."""
    seconds: float
    """Of all steps of the run, without its start, evaluations and checkpoints."""
    price: float | None
    """Of all workers per hour; None where no price is known."""

    @property
    def cost(self) -> float | None:
        """Of all steps of the run."""
        return None if self.price is None else self.price * self.seconds / 3600


def measured(plan: Plan, seconds: float) -> Speed:
    """Measures the speed of a plan's steps on the connected Ray; nothing but its dataset is written.

    Args:
        plan: of a run with a fixed number of workers.
        seconds: how long they train, at least.

    Raises:
        UserError: the config cannot be trained.
        JobFailed: a worker failed.
        Stopped: by Ctrl-C or SIGTERM.
    """
    config = plan.config
    order = order_of(config, plan.dataset())
    spec = {
        "config": config.model_dump(mode="json"), "dataset": plan.dataset_uri, "seconds": seconds, "nodes": plan.nodes,
        "working_dir": str(Path.cwd()),
    }  # fmt: skip
    found = _fit(config, spec)
    median, lowest, highest = found["samples_per_second"]
    samples = steps_of(config, order) * order.total / order.epoch_steps
    return Speed(
        config.most_workers,
        median,
        lowest,
        highest,
        found["data_wait"],
        found["communication"],
        samples / median,
        found["price"],
    )


def _fit(config: TrainConfig, spec: dict[str, Any]) -> dict[str, Any]:
    scaling = scaling_of(config.most_workers, config.resources.cpu, float(config.resources.gpu))
    os.environ.update(ENVIRONMENT)
    with interrupts() as received, tempfile.TemporaryDirectory(prefix="heliostat-", ignore_cleanup_errors=True) as scratch:
        run = ray.train.RunConfig(name="scaling", storage_path=scratch)
        trainer = Trainer(
            _work, train_loop_config=spec, scaling_config=scaling, run_config=run, policies={"scaling_policy": Fixed(scaling)}
        )
        fit = trainer.start()
        while not fit.done.wait(POLL):
            if received:
                raise Stopped("stopped while it measured; no run is left")
    if isinstance(fit.error, WorkerGroupError):
        ends = {rank: unwrap(each) for rank, each in fit.error.worker_failures.items()}
        raise Failures(most=0).decide(ends, saved=0).error or fit.error
    if fit.error:
        raise unwrap(fit.error)
    found: dict[str, Any] = fit.value
    return found


def _work(spec: dict[str, Any]) -> dict[str, Any]:
    """Measures on one of Ray Train's workers."""
    from heliostat.workloads.training.speed import measure_speed

    enter_working_dir(spec["working_dir"])
    config = TrainConfig.model_validate(spec["config"])
    provide(config.requirements, install=True)
    rank = ray.train.get_context().get_world_rank()
    try:
        ranks = joined(config)
        found = measure_speed(config, Dataset.open(spec["dataset"], config.storage_timeout), ranks, spec["seconds"])
        prices = ranks.all_gather_object(price_here(spec["nodes"], config.resources.cpu, float(config.resources.gpu)))
    except HeliostatError:
        raise
    except (Exception, SystemExit) as error:
        raise worker_failed(error, rank, 0, time.time(), None) from None
    return {**found, "price": None if None in prices else sum(prices)}
