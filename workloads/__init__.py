"""What runs: tasks, the training loop, runs on Ray Train and torchrun, evaluation, reports."""

# Ray may put a clone's root on the search path: our modules must not be loaded under a second name.
if __name__ != "heliostat.workloads":
    raise ModuleNotFoundError(
        f"no module {__name__!r}; Heliostat's is heliostat.workloads. Write from heliostat import Task, train, "
        "or in a script for torchrun from heliostat.torchrun import resume, save",
        name=__name__,
    )
