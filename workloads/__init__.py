"""What runs: the training loop, tasks and models, evaluation, the report.

``from heliostat.workloads import train`` starts a run from Python: on the Ray that ``ray.init`` connected to, also ``ray://``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliostat.workloads.ray_train.driver import train
    from heliostat.workloads.run.record import Result
    from heliostat.workloads.task import Batch, Task

__all__ = ["Batch", "Result", "Task", "train"]


def __getattr__(name: str) -> Any:
    # Loaded when used: torch takes seconds, and ``heliostat runs`` does not need it.
    import importlib

    where = {"train": "driver", "Result": "run", "Task": "task", "Batch": "task"}
    if name not in where:
        raise AttributeError(f"module 'heliostat.workloads' has no attribute {name!r}")
    return getattr(importlib.import_module(f"heliostat.workloads.{where[name]}"), name)
