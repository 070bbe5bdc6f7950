"""Plans the ten traces of Microsoft's ITP clusters (ElasticFlow, MIT licence): static fleets against planned profiles.

python -m tests.benchmarks.itp FOLDER [WAIT] [RATE]: FOLDER holds cluster01.csv to cluster10.csv, of
https://github.com/microsoft/elasticflow-traces; WAIT is the target in seconds (default: 600), RATE
the interruptions of a spot node in an hour (default: 0.05). Profiles are searched on the first half of a trace's time. Savings
are against the cheapest static fleet of 8-GPU nodes that keeps the wait on all of it. Elastic: jobs of fewer than 8 GPUs may
grow to a node of 8, with a speed of their GPUs to the power of 0.9; `searched` is whether the search takes that, and min by the
hour where the wait is shorter than a node's start.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from heliostat.cluster.planner.fleet import Fleet, Outcome, fleet_of, mean_of
from heliostat.cluster.planner.jobs import Jobs
from heliostat.cluster.planner.model import simulate
from heliostat.cluster.planner.plan import mix
from heliostat.cluster.planner.search import Candidate, search, split
from heliostat.cluster.planner.static import cheapest, peak
from heliostat.cluster.planner.trace import read_trace
from heliostat.cluster.prices import SPOT
from heliostat.cluster.profile import find
from heliostat.console import print_table

FOLDER = Path(__file__).parent
WHOLE_NODE = 8
"""GPUs."""


@dataclass(frozen=True)
class Result:
    """The savings of one trace, and its waits."""

    trace: str
    jobs: int
    nodes: int
    static: Outcome
    plain: Outcome
    planned: Outcome
    later: float
    """The saving of the planned profile in the second half alone, against a static fleet of that half."""
    mixed: Outcome
    reserved: float
    """The cost of the cheapest mix of reserved and planned nodes."""
    spot: Outcome
    elastic: Outcome
    """The plain profile, with jobs that grow to a whole node."""
    searched: Outcome
    """What the search finds with these, and min by the hour."""
    beyond: str
    bound: float

    def saving(self, cost: float) -> float:
        """Of a cost against the static fleet."""
        return 1 - cost / self.static.cost


def fleet(name: str) -> Fleet:
    """The fleet of a profile beside this file."""
    return fleet_of(find(str(FOLDER / f"{name}.yaml")))


def searched(jobs: Jobs, of: Fleet, wait: float, beyond: bool = False) -> Candidate:
    """What the first half of a trace says is the cheapest."""
    _, found = search(split(jobs, 0.5)[0], of, wait, must_fit=jobs, beyond=beyond)
    assert found is not None
    return found


def static(jobs: Jobs, wait: float) -> tuple[int, Outcome]:
    """The cheapest static fleet of 8-GPU nodes."""
    (nodes,), outcome = cheapest(jobs, fleet("itp"), wait, peak(jobs, fleet("itp")))
    return nodes, outcome


def result(path: Path, wait: float, interruptions: float) -> Result:
    """All fleets on one trace."""
    jobs = read_trace(path).jobs
    plain = fleet("itp")
    nodes, standing = static(jobs, wait)
    planned = searched(jobs, plain, wait).fleet
    growing = jobs.growing(WHOLE_NODE)
    beyond = searched(growing, plain, wait, beyond=True)
    rest = split(jobs, 0.5)[1]
    (group,) = plain.groups
    spot = replace(group, name="spot", price=group.price * SPOT, interruptions=interruptions, priority=1)
    return Result(
        path.stem, len(jobs), nodes, standing, simulate(jobs, plain), simulate(jobs, planned),
        1 - simulate(rest, planned).cost / static(rest, wait)[1].cost,
        simulate(jobs, searched(jobs, fleet("itp-mixed"), wait).fleet), mix(jobs, planned)[2],
        simulate(jobs, replace(plain, groups=(spot, group))), simulate(growing, plain),
        simulate(growing.ranged(beyond.ranges), beyond.fleet), beyond.beyond or "-", jobs.gpu_seconds / 3600,
    )  # fmt: skip


def main(folder: str, wait: str = "600", interruptions: str = "0.05") -> None:
    """Print a line a trace, and the medians."""
    paths = sorted(Path(folder).glob("cluster*.csv"))
    with ProcessPoolExecutor(2) as pool:
        results = list(pool.map(partial(result, wait=float(wait), interruptions=float(interruptions)), paths))
    rows = [
        (
            r.trace, r.jobs, r.nodes, *waits(r.static), *(f"{r.saving(r.plain.cost):.1%}", *waits(r.plain)),
            *(f"{r.saving(r.planned.cost):.1%}", *waits(r.planned)), f"{r.later:.1%}",
            *(f"{r.saving(r.mixed.cost):.1%}", *waits(r.mixed)),
            f"{r.saving(r.reserved):.1%}", f"{r.saving(r.spot.cost):.1%}", *waits(r.spot),
            *(f"{r.saving(r.elastic.cost):.1%}", *waits(r.elastic), f"{mean_of(r.elastic.times) / mean_of(r.plain.times):.2f}"),
            *(f"{r.saving(r.searched.cost):.1%}", *waits(r.searched), r.beyond), f"{r.saving(r.bound):.1%}",
        )
        for r in results
    ]  # fmt: skip
    columns = (
        "trace", "jobs", "static", "mean s", "p95 s", "plain", "mean s", "p95 s", "planned", "mean s", "p95 s", "2nd half",
        "small nodes", "mean s", "p95 s", "reserved mix", "spot", "mean s", "p95 s",
        "elastic", "mean s", "p95 s", "time of plain's", "searched", "mean s", "p95 s", "with", "bound",
    )  # fmt: skip
    print_table(["trace", *(result.trace for result in results)], [list(row) for row in zip(columns, *rows, strict=True)][1:])
    for name, of in (
        ("plain", [r.plain.cost for r in results]), ("planned", [r.planned.cost for r in results]),
        ("elastic", [r.elastic.cost for r in results]), ("searched", [r.searched.cost for r in results]),
        ("spot", [r.spot.cost for r in results]),
        ("with small nodes", [r.mixed.cost for r in results]), ("reserved mix", [r.reserved for r in results]),
    ):  # fmt: skip
        savings = [r.saving(cost) for r, cost in zip(results, of, strict=True)]
        print(f"median saving, {name}: {median(savings):.2%}")


def waits(outcome: Outcome) -> tuple[str, str]:
    """The mean and the 95th percentile in seconds."""
    return f"{outcome.mean_wait:.0f}", f"{outcome.wait():.0f}"


if __name__ == "__main__":
    main(*sys.argv[1:])
