"""One Ray Train worker of a run."""

import socket
import time
from typing import Any

import ray
import ray.train

from heliostat.errors import HeliostatError, UserError
from heliostat.folder import Folder
from heliostat.modules import enter_working_dir
from heliostat.requirements import provide
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.nodes import Nodes
from heliostat.workloads.ray_train.failures import RestartRequested, kind_of, worker_failed
from heliostat.workloads.ray_train.joining import joined
from heliostat.workloads.run.cost import price_here
from heliostat.workloads.run.output import recorded_output
from heliostat.workloads.run.record import CONFIG, RunRecord


def work(spec: dict[str, Any]) -> dict[str, Any]:
    """Runs one Ray Train worker; returns the outcome as plain values."""
    from heliostat.workloads.training.hangs import missing_ranks, report_timeout
    from heliostat.workloads.training.loop import Loop

    enter_working_dir(spec["working_dir"])
    record = RunRecord.model_validate(spec["record"])
    folder = Folder.at(spec["run"], record.config.storage_timeout)
    if not folder.exists(CONFIG):
        host = socket.gethostname()
        raise UserError(f"the run folder {folder} does not exist on {host}", "set storage to a place that all nodes share")
    provide(record.config.requirements, install=True)
    rank, step = ray.train.get_context().get_world_rank(), 0
    try:
        ranks = joined(record.config)
        place = _place(spec["nodes"], record.config)
        with recorded_output(folder, rank):
            loop = Loop(folder, record, ranks, spec["launched"], place=place, lease=spec["lease"])
            try:
                outcome = loop.run()
            finally:
                step = loop.progress.step
    except HeliostatError:
        raise
    except (Exception, SystemExit) as error:
        kind = kind_of(error)
        if kind == "peer_lost":
            report_timeout()
        raise worker_failed(error, rank, step, time.time(), missing_ranks() if kind == "timeout" else None) from None
    if outcome.state in ("drain", "grow"):
        raise RestartRequested(outcome.state, outcome.step)
    return outcome.model_dump()


def _place(nodes: Nodes | None, config: TrainConfig) -> dict[str, Any]:
    """This worker's node, and its price there."""
    price = price_here(nodes, config.resources.cpu, float(config.resources.gpu))
    return {"node": ray.get_runtime_context().get_node_id(), "price": price}
