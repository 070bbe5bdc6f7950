"""The same work on fleets of a fixed size, from the record: as large as the peak, and the cheapest with the same wait."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from heliostat.cluster.history import History
from heliostat.cluster.in_pod.record import Record, mean_price, most_at_once
from heliostat.cluster.planner.fleet import Fleet, fleet_of
from heliostat.cluster.planner.model import never_fit
from heliostat.cluster.planner.static import cheapest, kinds, peak
from heliostat.cluster.profile import Profile

HOUR = 3600.0


@dataclass(frozen=True)
class Static:
    """The same time on a fleet of fixed size."""

    nodes: Mapping[str, int]
    """Of each group."""
    node_hours: float
    gpu_hours: float
    money: float
    wait: float | None = None
    """Seconds that 95 % of the recorded jobs waited, which is kept; None: no job waits longer than it did."""
    jobs: int = 0
    """With which it was computed."""


def peak_fleet(record: Record, profile: Profile) -> Static:
    """A fleet that always has the most nodes that each group had at once, in the time without gaps, at the recorded prices.

    A node that ends while another one takes its place does not count: a cluster has at most as many as the profile allows, and
    as many clusters as heads were there at once. The fleet is one cluster, with one head.
    """
    heads = [each for each in record.intervals if each.group == "head"]
    clusters = most_at_once(heads) if heads else 1
    limits = {"head": 1, **{group.name: group.max * clusters for group in profile.groups}}
    peaks = {}
    for group in dict.fromkeys(each.group for each in record.intervals):
        mine = [each for each in record.intervals if each.group == group]
        most = most_at_once(mine)
        peaks[group] = min(most, limits.get(group, most))
    return _static(record, profile, peaks)


def cheapest_fleet(record: Record, profile: Profile, jobs: History) -> Static | None:
    """The cheapest fleet on which 95 % of the recorded jobs wait no longer than they did; None without such jobs.

    The jobs are replayed by the planner, first in, first out, on the kinds of nodes that the profile's groups have now. Groups
    of equal nodes are one, at the lower of their recorded prices.
    """
    prices = _prices(record, profile)
    fleet = fleet_of(profile)
    groups = (replace(each, most=1_000_000, interruptions=0.0, on_demand=prices[each.name]) for each in fleet.groups)
    fleet = replace(fleet, groups=tuple(groups))
    kept = np.ones(len(jobs.waits), bool)
    kept[never_fit(jobs.trace.jobs, fleet)] = False
    if not kept.any():
        return None
    fits = jobs.trace.jobs[np.flatnonzero(kept)]
    wait = float(np.percentile(jobs.waits[kept], 95, method="inverted_cdf"))
    counts, _ = cheapest(fits, _with_prices(fleet), wait, peak(fits, fleet))
    nodes = {kind.name: count for kind, count in zip(kinds(fleet), counts, strict=True) if count}
    found = _static(record, profile, nodes if "head" not in prices else {"head": 1, **nodes})
    return replace(found, wait=wait, jobs=len(fits))


def _with_prices(fleet: Fleet) -> Fleet:
    """Nodes without a price cost one: then the fewest are the cheapest."""
    return replace(fleet, groups=tuple(replace(each, on_demand=each.on_demand or 1.0) for each in fleet.groups))


def _static(record: Record, profile: Profile, nodes: Mapping[str, int]) -> Static:
    hours = (record.end - record.begin - sum(gap.end - gap.begin for gap in record.gaps if not gap.cluster)) / HOUR
    prices = _prices(record, profile)
    gpus = {group.name: group.gpu for group in profile.groups} | {each.group: each.gpus for each in record.intervals}
    total, of_gpus = sum(nodes.values()), sum(count * gpus[name] for name, count in nodes.items())
    money = sum(count * hours * prices[name] for name, count in nodes.items())
    return Static(nodes, total * hours, of_gpus * hours, money)


def _prices(record: Record, profile: Profile) -> dict[str, float]:
    """The mean recorded price of each group, else that of the profile; the head only if it was recorded."""
    found = {group.name: group.price for group in profile.groups}
    for group in dict.fromkeys(each.group for each in record.intervals):
        found[group] = mean_price([each for each in record.intervals if each.group == group])
    return found
