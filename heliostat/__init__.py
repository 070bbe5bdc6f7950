"""Train models on autoscaling Ray clusters, from a laptop to Kubernetes.

    from heliostat import train, sweep, load_run, evaluate, predict, TrainConfig, SweepConfig, Metric, Source, Task

Each name is imported on first use, so that ``import heliostat`` imports neither torch nor Ray. `heliostat.cluster` has the
client for KubeRay.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliostat.datasets.sources.own import Source
    from heliostat.tuning.config import SweepConfig
    from heliostat.tuning.drive import sweep
    from heliostat.tuning.results.table import SweepResult
    from heliostat.workloads.config import TrainConfig
    from heliostat.workloads.inference import evaluate, load_run, predict
    from heliostat.workloads.metric import Metric
    from heliostat.workloads.ray_train.driver import train
    from heliostat.workloads.run.record import Result
    from heliostat.workloads.task import Batch, Task

__all__ = [
    "Batch", "Metric", "Result", "Source", "SweepConfig", "SweepResult", "Task", "TrainConfig",
    "evaluate", "load_run", "predict", "sweep", "train",
]  # fmt: skip
__version__ = "0.1.0"

PUBLIC = {
    "Batch": "heliostat.workloads.task",
    "Metric": "heliostat.workloads.metric",
    "Result": "heliostat.workloads.run.record",
    "Source": "heliostat.datasets.sources.own",
    "SweepConfig": "heliostat.tuning.config",
    "SweepResult": "heliostat.tuning.results.table",
    "Task": "heliostat.workloads.task",
    "TrainConfig": "heliostat.workloads.config",
    "evaluate": "heliostat.workloads.inference",
    "load_run": "heliostat.workloads.inference",
    "predict": "heliostat.workloads.inference",
    "sweep": "heliostat.tuning.drive",
    "train": "heliostat.workloads.ray_train.driver",
}
"""The module of each public name."""

_missing = [name for name in ("cluster", "datasets", "tuning", "workloads") if not Path(__file__).with_name(name).is_dir()]
if _missing:
    raise ImportError(
        f"heliostat/{_missing[0]} is not a folder: in the repository it is a symbolic link to ../{_missing[0]}, which this "
        "copy lacks (a source zip, or git without core.symlinks). Install the wheel, or clone on a filesystem with links."
    )

if not TYPE_CHECKING:  # else type checkers would accept any name

    def __getattr__(name: str) -> Any:
        if name not in PUBLIC:
            raise AttributeError(f"module 'heliostat' has no attribute {name!r}")
        return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
