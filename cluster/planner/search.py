"""Searches the cheapest fleet that keeps a wait: ``min``, ``max`` and ``idle_seconds`` of each group of a profile.

The ``max`` of several groups are their mix, and those of spot groups the share of spot nodes. Optuna's TPE proposes, and the
fast model judges; a fleet that misses the wait ranks below all that keep it. ``min`` is searched only where the target is
shorter than the start of a node: else no node has to be there before its job. At last each group gets its own ``max`` back if
that costs little (`WORTH`): the months to come may need more nodes than those that were searched with.

What a profile cannot express is searched on its own: ``min`` by the hour of the week (`heliostat.cluster.planner.hours`), and
which part of the ranges of elastic jobs is used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from heliostat.cluster.planner.fleet import Fleet, NodeGroup
from heliostat.cluster.planner.hours import hourly
from heliostat.cluster.planner.jobs import Jobs
from heliostat.cluster.planner.model import never_fit, simulate
from heliostat.cluster.planner.static import cheapest, kinds, peak
from heliostat.errors import UserError
from heliostat.wording import counted

SHORTEST_IDLE, LONGEST_IDLE = 10, 1800
"""Seconds; Ray's autoscaler looks every five."""
SHARES = (0.0, 0.5, 0.75, 0.9, 1.0)
"""Of the weeks, whose need in an hour is always up; of none, nothing."""
EQUAL = 0.0005
"""Costs within this share of the lowest are equal: then the shortest mean wait decides."""


WORTH = 0.02
"""A lower ``max`` has to save this share of the cost."""


@dataclass(frozen=True)
class Candidate:
    """A fleet that was tried, and what came of it."""

    fleet: Fleet
    cost: float
    mean_wait: float
    """Seconds."""
    wait: float
    """Of the percentile that is searched for, in seconds."""
    ranges: str = "none"
    """The part of the ranges of elastic jobs that is used, see `Jobs.ranged`."""

    @property
    def beyond(self) -> str:
        """What it has that a profile cannot have; empty if nothing."""
        hours = "min by the hour" if any(group.hours for group in self.fleet.groups) else ""
        return " and ".join(filter(None, (hours, "elastic jobs" if self.ranges != "none" else "")))


def split(jobs: Jobs, share: float) -> tuple[Jobs, Jobs]:
    """The jobs of the first part of a trace's time, and those of the rest.

    Raises:
        UserError: one part has no job.
    """
    first, last = jobs.submitted[0], jobs.submitted[-1]
    at = int(np.searchsorted(jobs.submitted, first + (last - first) * share, side="right"))
    if not 0 < at < len(jobs):
        raise UserError(
            f"the trace has {counted(len(jobs), 'job')}, submitted in the same part of it, so a profile cannot be searched "
            "with one part and judged with the other",
            "give a longer trace, or plan without --wait-p95",
        )
    return jobs[:at], jobs[at:]


def search(
    jobs: Jobs, fleet: Fleet, wait: float, trials: int = 40, must_fit: Jobs | None = None,
    progress: Callable[[int], None] = lambda done: None, percentile: float = 95, seed: int = 0, beyond: bool = False,
) -> tuple[list[Candidate], Candidate | None]:  # fmt: skip
    """All fleets that were tried, the first as given; and the one to take, None if none keeps the wait.

    Args:
        jobs: all of which fit into the fleet.
        fleet: its ``most`` are limits that are kept.
        wait: the target in seconds.
        trials: how many fleets are tried.
        must_fit: jobs that have to fit into the fleets too, besides ``jobs``.
        progress: is called with the number of fleets so far.
        percentile: of the jobs that may wait so long.
        seed: of the proposals.
        beyond: also try what a profile cannot express, where the jobs have ranges or the target is below a node's start.
    """
    import optuna

    # Only the order of the values matters to TPE: what is worse than any fleet of interest ranks by how far it misses the wait.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tried = [_judge(jobs, fleet, percentile, "none")]
    distinct = _distinct(jobs if must_fit is None else must_fit)
    ranges, worst = _ranges(jobs, fleet, wait, percentile), 10 * tried[0].cost

    by_hour = _hours(jobs, fleet, wait) if beyond else {}
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=8)
    study = optuna.create_study(sampler=sampler)
    for idle in (SHORTEST_IDLE, 60):
        study.enqueue_trial(_first(ranges, idle))
    if beyond:
        for share in by_hour:
            low = {key: 0 for key in ranges if "least" in key}
            study.enqueue_trial(_first(ranges, SHORTEST_IDLE) | low | {"hours": share, "ranges": "none"})
        for part in jobs.parts[1:]:
            study.enqueue_trial(_first(ranges, SHORTEST_IDLE) | {"hours": 0.0, "ranges": part})

    def objective(trial: Any) -> float:
        groups = (_propose(trial, number, group, ranges) for number, group in enumerate(fleet.groups))
        proposed = replace(fleet, groups=tuple(groups))
        if never_fit(distinct, proposed):
            return 2 * worst
        part = "none"
        if beyond:
            if share := trial.suggest_categorical("hours", list(by_hour)):
                proposed = _with_hours(proposed, by_hour[share])
            part = trial.suggest_categorical("ranges", jobs.parts)
        found = _judge(jobs, proposed, percentile, part)
        tried.append(found)
        if not len(tried) % 10:
            progress(trial.number + 1)
        return found.cost if found.wait <= wait else worst + found.wait

    study.optimize(objective, n_trials=trials)
    found = best(tried, wait)
    return tried, found and _unlimited(jobs, fleet, found, wait, percentile)


def _unlimited(jobs: Jobs, fleet: Fleet, found: Candidate, wait: float, percentile: float) -> Candidate:
    """A fleet with the original ``most`` of each group for which a lower one does not save enough."""
    limit = found.cost * (1 + WORTH)
    for number, group in enumerate(fleet.groups):
        groups = [*found.fleet.groups]
        groups[number] = replace(groups[number], most=group.most)
        tried = _judge(jobs, replace(found.fleet, groups=tuple(groups)), percentile, found.ranges)
        if tried.wait <= wait and tried.cost <= limit:
            found = tried
    return found


def best(tried: Sequence[Candidate], wait: float) -> Candidate | None:
    """The cheapest that keeps a wait; of those that cost as little, see `EQUAL`, the one with the shortest mean wait.

    Returns None if none keeps it.
    """
    kept = [candidate for candidate in tried if candidate.wait <= wait]
    if not kept:
        return None
    lowest = min(candidate.cost for candidate in kept)
    equal = [candidate for candidate in kept if candidate.cost <= lowest * (1 + EQUAL)]
    return min(equal, key=lambda candidate: candidate.mean_wait)


def front(tried: Sequence[Candidate]) -> list[Candidate]:
    """Those of which no other one is both cheaper and of a shorter wait, the cheapest first."""
    found: list[Candidate] = []
    for candidate in sorted(tried, key=lambda candidate: (candidate.cost, candidate.wait)):
        if not found or candidate.wait < found[-1].wait:
            found.append(candidate)
    return found


def _distinct(jobs: Jobs) -> Jobs:
    """One job of each size."""
    jobs = jobs.ranged("none")
    sizes = [values for values in (jobs.gpus, jobs.cpus, jobs.memory, jobs.workers) if values is not None]
    return jobs[np.sort(np.unique(np.column_stack(sizes), axis=0, return_index=True)[1])]


def _judge(jobs: Jobs, fleet: Fleet, percentile: float, ranges: str) -> Candidate:
    outcome = simulate(jobs.ranged(ranges), fleet)
    return Candidate(fleet, outcome.cost, outcome.mean_wait, outcome.wait(percentile), ranges)


def beyond_helps(jobs: Jobs, fleet: Fleet, wait: float) -> bool:
    """Whether what a profile cannot express may make a difference."""
    return jobs.elastic or len(_hours(jobs, fleet, wait)) > 1


def _hours(jobs: Jobs, fleet: Fleet, wait: float) -> dict[float, list[tuple[int, ...]]]:
    """The nodes of each group by the hour for each share of the weeks; only without any if nodes start in time."""
    late = any(group.start_seconds > wait for group in fleet.groups)
    return {share: hourly(jobs, fleet, share) if share else [] for share in (SHARES if late else SHARES[:1])}


def _with_hours(fleet: Fleet, hours: Sequence[tuple[int, ...]]) -> Fleet:
    limited = (
        replace(group, hours=tuple(min(nodes, group.most) for nodes in of))
        for group, of in zip(fleet.groups, hours, strict=True)
    )
    return replace(fleet, groups=tuple(limited))


def _ranges(jobs: Jobs, fleet: Fleet, wait: float, percentile: float) -> dict[str, tuple[int, int]]:
    """The limits of each key: ``most`` up to what the jobs would use at once, ``least`` up to the cheapest static fleet's."""
    jobs = jobs.ranged("none")
    peaks = peak(jobs, fleet)
    at = {(kind.gpus, kind.cpus, kind.memory): number for number, kind in enumerate(kinds(fleet))}
    standing = [0] * len(peaks)
    if any(group.start_seconds > wait for group in fleet.groups):
        standing, _ = cheapest(jobs, fleet, wait, peaks, percentile)
    ranges = {}
    for number, group in enumerate(fleet.groups):
        kind = at[group.gpus, group.cpus, group.memory]
        ranges[f"least {number}"] = (0, min(group.most, standing[kind]))
        ranges[f"most {number}"] = (1, max(1, min(group.most, peaks[kind])))
        ranges[f"idle {number}"] = (SHORTEST_IDLE, LONGEST_IDLE)
    return ranges


def _first(ranges: dict[str, tuple[int, int]], idle: int) -> dict[str, Any]:
    """A proposal with the most nodes and a time-out."""
    return {key: idle if "idle" in key else high for key, (_, high) in ranges.items()}


def _propose(trial: Any, number: int, group: NodeGroup, ranges: dict[str, tuple[int, int]]) -> NodeGroup:
    most = trial.suggest_int(f"most {number}", *ranges[f"most {number}"])
    least = trial.suggest_int(f"least {number}", *ranges[f"least {number}"])
    idle = trial.suggest_int(f"idle {number}", *ranges[f"idle {number}"], log=True)
    return replace(group, most=most, least=min(least, most), idle_seconds=idle)
