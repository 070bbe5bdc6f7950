"""Train models on autoscaling Ray clusters, from a laptop to Kubernetes.

    from heliostat import train, sweep, runs, load_run, Task

    run = train("digits", optimizer={"lr": 0.01}, name="faster")    # on="gpu" trains on the cluster of a profile
    run.metrics, run.history, run.cost, run.model()

Functions: `train`, `sweep`, `runs`, `load_run`, `load_sweep`, `evaluate`, `predict`; what they return: `Run`, `Sweep`, `Runs`.
For configs `TrainConfig` and `SweepConfig`; for code of one's own `Task`, `Batch`, `Metric`, `Source`, `Callback`.

Each name is imported on first use, so that ``import heliostat`` imports neither torch nor Ray. `heliostat.cluster` has the
client for KubeRay.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliostat.datasets.sources.own import Source
    from heliostat.interface.calls import evaluate, load_run, load_sweep, predict, runs, sweep, train
    from heliostat.interface.listing import Runs
    from heliostat.interface.run import Run
    from heliostat.interface.sweep import Sweep
    from heliostat.tuning.config import SweepConfig
    from heliostat.workloads.callback import Callback
    from heliostat.workloads.config import TrainConfig
    from heliostat.workloads.metric import Metric
    from heliostat.workloads.task import Batch, Task

__all__ = [
    "Batch", "Callback", "Metric", "Run", "Runs", "Source", "Sweep", "SweepConfig", "Task", "TrainConfig",
    "evaluate", "load_run", "load_sweep", "predict", "runs", "sweep", "train",
]  # fmt: skip
__version__ = "0.1.0"

PUBLIC = {
    "Batch": "heliostat.workloads.task",
    "Callback": "heliostat.workloads.callback",
    "Metric": "heliostat.workloads.metric",
    "Run": "heliostat.interface.run",
    "Runs": "heliostat.interface.listing",
    "Source": "heliostat.datasets.sources.own",
    "Sweep": "heliostat.interface.sweep",
    "SweepConfig": "heliostat.tuning.config",
    "Task": "heliostat.workloads.task",
    "TrainConfig": "heliostat.workloads.config",
    **dict.fromkeys(("evaluate", "load_run", "load_sweep", "predict", "runs", "sweep", "train"), "heliostat.interface.calls"),
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
