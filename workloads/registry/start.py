"""``start_from: NAME@champion``: the weights of a version of a model, which are those of its run."""

from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.config import StartFrom, TrainConfig
from heliostat.workloads.registry.registry import Registry, parsed
from heliostat.workloads.registry.version import run_of
from heliostat.workloads.run.record import CONFIG, read_record
from heliostat.workloads.training.weights import FILES


def resolved(config: TrainConfig, registry: Registry) -> tuple[TrainConfig, str]:
    """The config with the run of the version that its ``start_from`` names, and what the user should know.

    A run that exists keeps what it was started from: the alias may have moved since. The first run for the model of `then` has
    new weights, because there is no champion yet.

    Args:
        config: of the run.
        registry: of its storage.

    Raises:
        UserError: there is no such version, or its run is gone.
    """
    start = config.start_from
    if start is None or "@" not in start.path or "/" in start.path or start.path.endswith(FILES):
        return config, ""
    run = registry.storage / config.name
    if run.exists(CONFIG):
        return config.model_copy(update={"start_from": read_record(run).config.start_from}), ""
    name, wanted = parsed(start.path)
    own = config.then is not None and (config.then.model or config.name) == name
    if own and wanted == "champion" and not registry.has_champion(name):
        return config.model_copy(update={"start_from": None}), f"{name} has no champion yet: the weights are new"
    version = registry.resolve(start.path)
    folder: Folder | None = run_of(version, registry.storage)
    if folder is None:
        raise UserError(
            f"start_from is {start.path!r}, but the run of {version}, {version.manifest.run}, is gone",
            "restore it, or leave start_from out",
        )
    return config.model_copy(update={"start_from": StartFrom(path=str(folder), strict=start.strict)}), ""
