"""Many runs at once: search spaces, sweeps, their results."""

# The root of a clone may be on a search path, as Ray puts it there: nothing of ours is loaded under a second name.
if __name__ != "heliostat.tuning":
    raise ModuleNotFoundError(f"no module {__name__!r}; it is heliostat.tuning: from heliostat import sweep", name=__name__)
