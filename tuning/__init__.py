"""Hyperparameter sweeps: search spaces, algorithms, schedulers, executors, results."""

# Ray may put the root of a clone on the search path; there this package must not be imported under a second name.
if __name__ != "heliostat.tuning":
    raise ModuleNotFoundError(f"no module {__name__!r}; it is heliostat.tuning: from heliostat import sweep", name=__name__)
