"""What runs: tasks, the training loop, runs on Ray Train and torchrun, evaluation, reports."""

if __name__ != "heliostat.workloads":  # the clone's root is on the search path, as Ray puts it there
    from heliostat.modules import step_aside

    step_aside(
        __name__,
        __file__,
        "from heliostat import Task, or in a script for torchrun from heliostat.torchrun import resume, save",
    )
