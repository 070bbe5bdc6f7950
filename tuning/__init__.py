"""Many runs at once: search spaces, sweeps, their results.

``from heliostat.tuning import sweep`` starts a sweep from Python: on the Ray that ``ray.init`` connected to, also ``ray://``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliostat.tuning.config import SweepConfig
    from heliostat.tuning.drive import sweep
    from heliostat.tuning.results.table import SweepResult

__all__ = ["SweepConfig", "SweepResult", "sweep"]


def __getattr__(name: str) -> Any:
    # Loaded when used: torch takes seconds.
    import importlib

    where = {"sweep": "drive", "SweepResult": "result", "SweepConfig": "config"}
    if name not in where:
        raise AttributeError(f"module 'heliostat.tuning' has no attribute {name!r}")
    return getattr(importlib.import_module(f"heliostat.tuning.{where[name]}"), name)
