"""What a service serves, by what a command names: a run, or a model of the registry."""

import time

from heliostat.commands import run_folder, storage_at
from heliostat.errors import UserError
from heliostat.workloads.registry.registry import Registry
from heliostat.workloads.serve.servable import Servable
from heliostat.workloads.serve.sources import ModelSource, RunSource, Source


def source_of(model: str, storage: str) -> Source:
    """The run, or else the model of the registry.

    Raises:
        UserError: there is neither.
    """
    registry = Registry(storage_at(storage))
    if "/" not in model and "@" in model:
        registry.resolve(model)
        return ModelSource(registry, model)
    try:
        return RunSource(run_folder(model, storage))
    except UserError:
        if "/" in model or model not in registry.names():
            raise
        registry.resolve(model)
        return ModelSource(registry, model)


def loaded(source: Source) -> tuple[str, Servable, str]:
    """What `Source.load` returns, and how long that took, as text."""
    began = time.perf_counter()
    served, model = source.load()
    seconds = time.perf_counter() - began - model.warm_up_seconds
    return served, model, f"loaded in {seconds:.2f} s, warmed up in {model.warm_up_seconds:.2f} s"
