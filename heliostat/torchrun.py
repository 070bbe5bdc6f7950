"""What a script uses under ``heliostat torchrun``, and under plain ``torchrun`` and ``python``.

Checkpoints in three lines::

    from heliostat.torchrun import resume, save
    for epoch in range(resume(model=model, optimizer=optimizer), epochs):
        ...
        save(epoch + 1, model=model, optimizer=optimizer)

Metrics for ``heliostat runs`` and its report, with `log`. For frameworks with checkpoints of their own: where they go,
`checkpoints`, the last complete one, `last_checkpoint`, and when to save one and exit, `stopping`; or all of it by
`HuggingFaceCallback` and `LightningCallback`, which import their frameworks.
"""

from typing import TYPE_CHECKING, Any

from heliostat.workloads.torchrun.measured import log
from heliostat.workloads.torchrun.own_checkpoints import checkpoints, last_checkpoint
from heliostat.workloads.torchrun.script import resume, save
from heliostat.workloads.torchrun.stopping import leave, stopping

if TYPE_CHECKING:
    from heliostat.workloads.torchrun.huggingface_callback import HuggingFaceCallback
    from heliostat.workloads.torchrun.lightning_callback import LightningCallback

__all__ = [
    "HuggingFaceCallback", "LightningCallback", "checkpoints", "last_checkpoint", "leave", "log", "resume", "save", "stopping",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports a callback with its framework when it is asked for."""
    if name == "HuggingFaceCallback":
        from heliostat.workloads.torchrun.huggingface_callback import HuggingFaceCallback as Callback
    elif name == "LightningCallback":
        from heliostat.workloads.torchrun.lightning_callback import LightningCallback as Callback
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return Callback
