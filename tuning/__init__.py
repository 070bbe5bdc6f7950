"""Hyperparameter sweeps: search spaces, algorithms, schedulers, executors, results."""

if __name__ != "heliostat.tuning":  # the clone's root is on the search path, as Ray puts it there
    from heliostat.modules import step_aside

    step_aside(__name__, __file__, "from heliostat import sweep")
