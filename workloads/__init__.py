"""What runs: the training loop, tasks and models, evaluation, the report."""

if __name__ != "heliostat.workloads":  # the clone's root is on the search path, as Ray puts it there
    from heliostat.modules import step_aside

    step_aside(__name__, "from heliostat import Task")
