"""heliostat runs list: the same as heliostat runs."""

from heliostat.commands.runs import configure, run

__all__ = ["configure", "run"]
