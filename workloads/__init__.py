"""What runs: the training loop, tasks and models, evaluation, the report."""

# The root of a clone may be on a search path, as Ray puts it there: nothing of ours is loaded under a second name.
if __name__ != "heliostat.workloads":
    raise ModuleNotFoundError(
        f"no module {__name__!r}; Heliostat's is heliostat.workloads. Write from heliostat import Task, train, "
        "or in a script for torchrun from heliostat.torchrun import resume, save",
        name=__name__,
    )
