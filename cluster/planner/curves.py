"""Cost against waiting: fleets that do not change, of every size, and those that a search found."""

from dataclasses import dataclass
from math import ceil

from heliostat.cluster.planner.fleet import Fleet
from heliostat.cluster.planner.jobs import Jobs
from heliostat.cluster.planner.model import never_fit, simulate
from heliostat.cluster.planner.search import Candidate, front
from heliostat.cluster.planner.static import peak, static

POINTS = 14
SHORTEST = 0.3
"""The smallest static fleet that is drawn, as a share of the peak: below, jobs wait for days."""


@dataclass(frozen=True)
class Point:
    """A fleet on the plot."""

    wait: float
    """Seconds that 95 % of the jobs do not exceed."""
    cost: float


def static_points(jobs: Jobs, fleet: Fleet) -> list[Point]:
    """Static fleets from the peak downwards, all kinds of nodes in the same proportion."""
    jobs = jobs.ranged("none")
    most = peak(jobs, fleet)
    shares = [1 - (1 - SHORTEST) * n / (POINTS - 1) for n in range(POINTS)]
    sizes = dict.fromkeys(tuple(ceil(nodes * share) for nodes in most) for share in shares)
    fleets = [static(fleet, size) for size in sizes]
    return [_point(jobs, each) for each in fleets if not never_fit(jobs, each)]


def searched_points(jobs: Jobs, tried: tuple[Candidate, ...]) -> list[Point]:
    """The best fleets of a search, on other jobs than those that were searched with."""
    return [_point(jobs.ranged(candidate.ranges), candidate.fleet) for candidate in front(tried)]


def _point(jobs: Jobs, fleet: Fleet) -> Point:
    outcome = simulate(jobs, fleet)
    return Point(outcome.wait(), outcome.cost)
