"""A profile's fleet on the jobs of a trace, compared with fleets that do not change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from heliostat.cluster.planner.fleet import Fleet, Outcome
from heliostat.cluster.planner.jobs import Jobs
from heliostat.cluster.planner.model import never_fit, simulate
from heliostat.cluster.planner.static import cheapest, kinds, one_at_a_time, peak, static
from heliostat.errors import UserError, some
from heliostat.wording import agreeing, counted

RESERVED = 0.5
"""The price of a node that is reserved for years, as a share of its price on demand."""
OFTEN = 6
"""Interruptions between two checkpoints: of 400 tries, one succeeds."""
Progress = Callable[[str], None]
Recorded = Callable[[Jobs], Outcome]
Option = tuple[Fleet, str]
"""A fleet, and the part of the ranges of elastic jobs that is used on it, see `Jobs.ranged`."""


@dataclass(frozen=True)
class Row:
    """A fleet in the comparison."""

    name: str
    nodes: int
    """The most at once."""
    outcome: Outcome
    cost: float


@dataclass(frozen=True)
class Plan:
    """What a trace would cost with each fleet."""

    jobs: int
    never: int
    """Jobs that fit into no group; they are in no other figure."""
    seconds: float
    """From the first submission until the last end."""
    gpu_hours: float
    """What the jobs themselves use."""
    bound: float
    """Their cost at the lowest price of a GPU on demand."""
    target: float
    """Seconds that 95 % of the jobs may wait on the cheapest static fleet."""
    percentile: float
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The row with that name."""
        return next(row for row in self.rows if row.name == name)

    def saving(self, cost: float) -> float:
        """Of a cost against the cheapest static fleet, as a share of that one's; 0 if nothing takes any time."""
        static = self.row("cheapest static").cost
        return 1 - cost / static if static else 0.0


def fitting(jobs: Jobs, fleet: Fleet) -> tuple[Jobs, list[int]]:
    """The jobs that fit into a group of a fleet, and the rows of the others.

    Raises:
        UserError: none fits.
    """
    never = never_fit(jobs.ranged("none"), fleet)
    if len(never) == len(jobs):
        largest = max(group.gpus * group.most for group in fleet.groups)
        row = never[0]
        raise UserError(
            f"none of {counted(len(jobs), 'job')} fits: {jobs.name(row)} needs {counted(int(jobs.gpus[row]), 'GPU')}, and "
            f"the largest group has {largest} at its max",
            "raise max or gpu of a group, such as --set groups.NAME.max=100",
        )
    return (jobs[np.delete(np.arange(len(jobs)), never)] if never else jobs), never


def plan(
    jobs: Jobs, fleet: Fleet, wait: float | None = None, others: Mapping[str, Option] = MappingProxyType({}),
    reserved: float = RESERVED, progress: Progress = lambda text: None, percentile: float = 95,
    recorded: Recorded | None = None,
) -> Plan:  # fmt: skip
    """Compare a fleet with the peak fleet, the cheapest static one of the same wait, reserved nodes, and a mix of both.

    Args:
        jobs: sorted by submission.
        fleet: of the profile.
        wait: seconds that ``percentile`` percent of the jobs may wait on the cheapest static fleet; None: as on ``fleet``.
        others: further fleets to compare, by name; the mix is with the first of them, and rigid jobs.
        reserved: the price of a reserved node as a share of the one on demand.
        progress: is called with what is computed.
        percentile: of the jobs.
        recorded: returns what the jobs did in reality.

    Raises:
        UserError: no job fits, nodes have no price, or interruptions would keep a job from ever ending.
    """
    _check_prices(fleet)
    ranged, never = fitting(jobs, fleet)
    fits = ranged.ranged("none")
    check_interruptions(fits, fleet)
    own = simulate(fits, fleet, lambda done: progress(f"the profile, {done:,} of {counted(len(fits), 'job')}"))
    target = own.wait(percentile) if wait is None else wait
    progress("the static fleets")
    most = peak(fits, fleet)
    nodes, least = cheapest(fits, fleet, target, most, percentile)
    at_peak = simulate(fits, static(fleet, most))
    alone = one_at_a_time(fits, fleet)
    progress("the mix with reserved nodes")
    mixed, base, mixed_cost = mix(fits, next(iter(others.values()))[0] if others else fleet, reserved)
    elastic = {"profile, elastic jobs": (fleet, "both")} if ranged.elastic else {}
    found = {name: simulate(ranged.ranged(part), other) for name, (other, part) in {**elastic, **others}.items()}
    real = {"as recorded": recorded(fits)} if recorded else {}
    rows = (
        *(Row(name, _peak(outcome), outcome, outcome.cost) for name, outcome in {**real, "profile": own, **found}.items()),
        Row("one job at a time", _peak(alone), alone, alone.cost),
        Row("peak static", sum(most), at_peak, at_peak.cost),
        Row("cheapest static", sum(nodes), least, least.cost),
        Row("reserved static", sum(nodes), least, least.head_cost + (least.cost - least.head_cost) * reserved),
        Row(f"{counted(base, 'node')} reserved, others as {next(iter(others), 'profile')}", _peak(mixed), mixed, mixed_cost),
    )
    price = min((kind.price / kind.gpus for kind in kinds(fleet) if kind.gpus), default=0.0)
    hours = fits.gpu_seconds / 3600
    return Plan(len(jobs), len(never), own.seconds, hours, hours * price, target, percentile, rows)


def _check_prices(fleet: Fleet) -> None:
    if free := [group.name for group in fleet.groups if not group.on_demand]:
        names = some(free)
        raise UserError(
            f"the nodes of {names} cost nothing, so fleets cannot be compared", f"add --set groups.{free[0]}.price_per_hour=1"
        )


def check_interruptions(jobs: Jobs, fleet: Fleet) -> None:
    """Raise `UserError` if a job on spot nodes would be interrupted so often that it hardly reaches its next checkpoint."""
    for group in fleet.groups:
        nodes = np.ceil(jobs.gpus / group.units)
        expected = group.interruptions / 3600 * nodes * np.minimum(jobs.seconds, fleet.checkpoint_seconds)
        if len(jobs) and expected.max() > OFTEN:
            row = int(expected.argmax())
            raise UserError(
                f"{jobs.name(row)}, on {counted(round(nodes[row]), 'node')} of group {group.name}, would be interrupted "
                f"{expected.max():.0f} times on average between two checkpoints, and hardly ever end",
                "checkpoint more often, such as --checkpoints 5m, or lower --interruptions",
            )


def mix(jobs: Jobs, fleet: Fleet, reserved: float = RESERVED) -> tuple[Outcome, int, float]:
    """The outcome, how many nodes are reserved, and the cost, of the cheapest number of reserved nodes below the profile's own.

    They take the place of the first nodes of the group on demand that costs most, and the others come and go as before. The
    cost has one minimum over their number, up to small steps, so the search is a ternary one.
    """
    known: dict[int, tuple[Outcome, float]] = {}
    outcome = simulate(jobs, fleet)
    by_cost = sorted(range(len(fleet.groups)), key=lambda n: -outcome.groups[n].cost)
    number = next((n for n in by_cost if not fleet.groups[n].interruptions), by_cost[0])
    group = fleet.groups[number]

    def cost(nodes: int) -> float:
        if nodes not in known:
            groups = [*fleet.groups]
            groups[number] = replace(group, least=max(nodes, group.least))
            found = simulate(jobs, replace(fleet, groups=tuple(groups)))
            known[nodes] = found, found.cost - nodes * found.seconds / 3600 * group.price * (1 - reserved)
        return known[nodes][1]

    low, high = 0, outcome.groups[number].peak
    while high - low > 2:
        third = (high - low) // 3
        left, right = low + third, high - third
        if cost(left) <= cost(right):
            high = right
        else:
            low = left
    best = min(range(low, high + 1), key=cost)
    return known[best][0], best, known[best][1]


def _peak(outcome: Outcome) -> int:
    return sum(group.peak for group in outcome.groups)


def describe_never(jobs: Jobs, never: list[int]) -> str:
    """A sentence about jobs that fit into no group."""
    names = some((f"{jobs.name(row)} ({counted(int(jobs.gpus[row]), 'GPU')})" for row in never), 5)
    return (
        f"{len(never):,} of {counted(len(jobs), 'job')} never {agreeing(len(never), 'fit')}, and "
        f"{agreeing(len(never), 'are')} in no figure: {names}"
    )
