"""heliostat serve start: the same as heliostat serve, also for a run that is called status or stop."""

from heliostat.commands.serve import configure, run

__all__ = ["configure", "run"]
