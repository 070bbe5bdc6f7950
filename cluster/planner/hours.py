"""The nodes that are always up by the hour of the week, from the jobs of weeks before.

An autoscaler brings nodes when jobs need them, and a ``min`` keeps some up at all times. For waits shorter than a node's start,
between both lies what most weeks have needed at that hour. The profile has one ``min``, so this is an advice.
"""

from collections.abc import Sequence

import numpy as np

from heliostat.cluster.planner.fleet import Fleet
from heliostat.cluster.planner.jobs import Floats, Jobs
from heliostat.cluster.planner.pool import HOURS
from heliostat.cluster.planner.shapes import shapes_of


def hourly(jobs: Jobs, fleet: Fleet, share: float) -> list[tuple[int, ...]]:
    """The nodes of each group that so large a share of the weeks needed at most, in each hour of the week.

    Needed is what jobs that start at once, each on the group that it prefers, use at the hour's busiest moment. The first hour
    of the week is that of time 0: for seconds since the epoch, Thursday from midnight UTC.
    """
    units = np.zeros((len(fleet.groups), len(jobs)))
    for row, shapes in enumerate(shapes_of(jobs, fleet)):
        for shape in shapes[:1]:
            units[shape.group, row] = sum(count * size for count, size in shape.parts)
    return [
        tuple(int(min(-(-peak // group.units), group.most)) for peak in _by_hour(jobs, used, share))
        for group, used in zip(fleet.groups, units, strict=True)
    ]


def _by_hour(jobs: Jobs, units: Floats, share: float) -> Sequence[float]:
    times = np.concatenate([jobs.submitted, jobs.submitted + jobs.seconds])
    order = np.argsort(times, kind="stable")
    times, used = times[order], np.concatenate([units, -units])[order].cumsum()
    first, last = int(jobs.submitted[0] // 3600), int(jobs.submitted[-1] // 3600)
    before = np.searchsorted(times, np.arange(first, last + 1) * 3600.0)
    peaks = np.where(before > 0, used[before - 1], 0.0)
    inside = (times // 3600).astype(int) - first
    known = inside <= last - first
    np.maximum.at(peaks, inside[known], used[known])
    weeks = np.full(-(-len(peaks) // HOURS) * HOURS, np.nan)
    weeks[: len(peaks)] = peaks
    by_hour = np.roll(np.nan_to_num(np.nanquantile(_padded(weeks), share, axis=0, method="inverted_cdf")), first % HOURS)
    return [float(value) for value in by_hour]


def _padded(weeks: Floats) -> Floats:
    """A row for each week; an hour that no week has needed nothing."""
    table = weeks.reshape(-1, HOURS)
    table[0] = np.nan_to_num(table[0])
    return table
