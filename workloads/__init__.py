"""What runs: the training loop, tasks and models, evaluation, the report."""

# The root of a clone may be on a search path, as Ray puts it there: nothing of ours is loaded under a second name.
if __name__ != "heliostat.workloads":
    raise ModuleNotFoundError(f"no module {__name__!r}; it is heliostat.workloads: from heliostat import Task", name=__name__)
