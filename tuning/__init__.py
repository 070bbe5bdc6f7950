"""Many runs at once: search spaces, sweeps, their results.

``from tuning import sweep`` starts a sweep from Python: on the Ray that ``ray.init`` connected to, also ``ray://``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuning.config import SweepConfig
    from tuning.drive import sweep
    from tuning.result import SweepResult

__all__ = ["SweepConfig", "SweepResult", "sweep"]


def __getattr__(name: str) -> Any:
    # Loaded when used: torch takes seconds.
    import importlib

    where = {"sweep": "drive", "SweepResult": "result", "SweepConfig": "config"}
    if name not in where:
        raise AttributeError(f"module 'tuning' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tuning.{where[name]}"), name)
