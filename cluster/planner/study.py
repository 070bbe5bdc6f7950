"""All that ``heliostat plan`` computes about one trace."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from heliostat.cluster.planner.fleet import Fleet, Outcome, mean_of, percentile_of
from heliostat.cluster.planner.jobs import Jobs
from heliostat.cluster.planner.plan import Plan, Progress, Recorded, check_interruptions, describe_never, fitting, plan
from heliostat.cluster.planner.search import Candidate, beyond_helps, front, search, split
from heliostat.cluster.planner.trace import Trace, remarks_of
from heliostat.wording import counted


@dataclass(frozen=True, eq=False)
class Study:
    """A trace with a profile, and the profile that was found for a wait."""

    name: str
    """Of the trace."""
    remarks: tuple[str, ...]
    """What is not in the figures, and why."""
    plan: Plan
    """Of the part of the trace that was not searched with; without a search, of all."""
    wait: float | None
    """The target of the search in seconds."""
    found: Candidate | None
    """The cheapest fleet that keeps it on the part that was searched with."""
    beyond: Candidate | None
    """A cheaper one with what a profile cannot express."""
    tried: tuple[Candidate, ...]
    jobs: Jobs
    """Those that are reported."""
    fleet: Fleet
    """Of the profile."""

    @property
    def kept(self) -> bool:
        """Whether the fleet that was found keeps the wait on the part that is reported, too."""
        return self.found is not None and self.keeps("planned")

    def keeps(self, row: str) -> bool:
        """Whether a row of the plan keeps the wait on the part that is reported."""
        wait = self.wait if self.wait is not None else np.inf
        return self.plan.row(row).outcome.wait(self.plan.percentile) <= wait

    def document(self) -> dict[str, Any]:
        """Plain data of it."""
        plan = self.plan
        rows = [
            {"fleet": row.name, "nodes": row.nodes, "cost": row.cost, "saving": plan.saving(row.cost), **_numbers(row.outcome)}
            for row in plan.rows
        ]
        return {
            "trace": self.name, "remarks": list(self.remarks), "jobs": plan.jobs, "seconds": plan.seconds,
            "never_fit": plan.never, "gpu_hours": plan.gpu_hours, "cost_of_gpu_hours": plan.bound, "wait": plan.target,
            "fleets": rows, "found": self.found and _groups(self.found.fleet), "kept": self.kept if self.found else None,
            "beyond": self.beyond and {"ranges": self.beyond.ranges, "groups": _groups(self.beyond.fleet)},
            "front": [
                {"cost": each.cost, "wait": each.wait, "groups": _groups(each.fleet)} for each in front(self.tried)
            ],
        }  # fmt: skip


def study(
    name: str, trace: Trace, fleet: Fleet, wait: float | None = None, trials: int = 40, share: float = 0.5,
    reserved: float = 0.5, progress: Progress = lambda text: None, recorded: Recorded | None = None,
) -> Study:  # fmt: skip
    """Plan a trace; with ``wait`` also search the cheapest fleet, with the first ``share`` of its time.

    Raises:
        UserError: no job fits, or the trace cannot be divided.
    """
    jobs, never = fitting(trace.jobs, fleet)
    check_interruptions(jobs, fleet)
    remarks = remarks_of(trace)
    remarks += [describe_never(trace.jobs, never)] if never else []
    if wait is None:
        of = plan(jobs, fleet, reserved=reserved, progress=progress, recorded=recorded)
        return Study(name, tuple(remarks), of, None, None, None, (), jobs, fleet)
    first, rest = split(jobs, share)
    tried, found = search(
        first, fleet, wait, trials, jobs, lambda done: progress(f"{done} of {counted(trials, 'profile')} tried")
    )
    others = {"planned": (found.fleet, "none")} if found else {}
    beyond = None
    if beyond_helps(first, fleet, wait):
        more, best = search(
            first, found.fleet if found else fleet, wait, trials, jobs, beyond=True,
            progress=lambda done: progress(f"{done} of {counted(trials, 'profile')} tried with hourly min and elastic jobs"),
        )  # fmt: skip
        tried += more
        if best and best.beyond and (found is None or best.cost < found.cost):
            beyond, others = best, {**others, f"planned, {best.beyond}": (best.fleet, best.ranges)}
    of = plan(rest, fleet, wait, others, reserved, progress, recorded=recorded)
    return Study(name, tuple(remarks), of, wait, found, beyond, tuple(tried), rest, fleet)


def _numbers(outcome: Outcome) -> dict[str, Any]:
    return {
        "mean_wait": outcome.mean_wait, "wait_p95": outcome.wait(95), "longest_wait": outcome.wait(100),
        "mean_time": mean_of(outcome.times), "time_p95": percentile_of(outcome.times), "utilisation": outcome.utilisation,
        "node_hours": outcome.node_seconds / 3600, "recomputed_gpu_hours": outcome.recomputed / 3600,
        "groups": [
            {
                "name": group.name, "starting_hours": group.starting / 3600, "busy_hours": group.busy / 3600,
                "idle_hours": group.idle / 3600, "starts": group.starts, "peak": group.peak,
                "interruptions": group.interruptions, "cost": group.cost,
            }
            for group in outcome.groups
        ],
    }  # fmt: skip


def _groups(fleet: Fleet) -> list[dict[str, Any]]:
    return [
        {
            "name": group.name, "min": group.least, "max": group.most, "idle_seconds": group.idle_seconds,
            **({"min_by_hour": list(group.hours)} if group.hours else {}),
        }
        for group in fleet.groups
    ]  # fmt: skip
