"""The planner's model against reality: short trainings arrive as the jobs of a real trace did, and are simulated afterwards.

python -m tests.benchmarks.arrivals TRACE FOLDER [--on PROFILE] [--jobs 40] [--first 5440] [--seconds 900]

TRACE is one of Microsoft's ITP traces. So many of its jobs, from the row ``--first`` on, arrive within ``--seconds``, on the
laptop cluster of arrivals.yaml or that of another profile with one group. After an interruption the same command goes on; once
all jobs have ended it only prints the tables, from what FOLDER keeps of the cluster's own record: the jobs go through the event
model with the times at which they asked for nodes and for which they held them.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from heliostat.cluster.in_pod.record import Record, read
from heliostat.cluster.in_pod.recorder import FLUSH_SECONDS
from heliostat.cluster.jobs.contents import contents
from heliostat.cluster.jobs.follow import Work, about, submit
from heliostat.cluster.jobs.packaging import packages
from heliostat.cluster.measured import describe_times, measured
from heliostat.cluster.planner.fleet import Fleet, Outcome, fleet_of
from heliostat.cluster.planner.jobs import Floats, Jobs
from heliostat.cluster.planner.model import simulate
from heliostat.cluster.planner.replay import replay
from heliostat.cluster.planner.static import cheapest, peak
from heliostat.cluster.planner.trace import read_trace
from heliostat.cluster.profile import Profile, find
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.cluster.targets.local import LocalCluster
from heliostat.cluster.targets.run import open_target
from heliostat.cluster.targets.storage import opened, record_folder
from heliostat.console import print_table
from heliostat.environment import NODES
from tests.benchmarks import ROOT

PROFILE = str(Path(__file__).parent / "arrivals.yaml")
Target = KubernetesCluster | LocalCluster
LARGEST = 2
"""GPUs of a job: what is larger in the trace."""
EPOCHS = 10
"""Of the longest job, about 40 s on two cores with nothing else on them."""
POLL_SECONDS = 5.0


@dataclass(frozen=True)
class Arrival:
    """A training, and when it is submitted after the first one."""

    name: str
    after: float
    gpus: int
    epochs: int

    @property
    def command(self) -> list[str]:
        changes = [f"name={self.name}", f"epochs={self.epochs}", f"workers={self.gpus}", "resources.gpu=1"]
        return ["python", "-P", "-m", "heliostat", "train", "digits", *(part for each in changes for part in ("--set", each))]


def arrivals(trace: str, first: int, count: int, seconds: float, prefix: str) -> list[Arrival]:
    """A piece of a trace, in so many seconds; the logarithm of a duration decides on the epochs."""
    jobs = read_trace(trace).jobs[first : first + count]
    after = (jobs.submitted - jobs.submitted[0]) / (jobs.submitted[-1] - jobs.submitted[0]) * seconds
    length = np.log(np.maximum(jobs.seconds, 1))
    epochs = 1 + np.round((EPOCHS - 1) * (length - length.min()) / (length.max() - length.min())).astype(int)
    gpus = np.clip(jobs.gpus, 1, LARGEST)
    columns = zip(after.tolist(), gpus.tolist(), epochs.tolist(), strict=True)
    return [Arrival(f"{prefix}-{number:02}", *each) for number, each in enumerate(columns)]


def submit_all(target: Target, jobs: list[Arrival]) -> None:
    """Submit those that the cluster does not have yet, with the times between them."""
    dashboard, files = target.dashboard(), contents(Path.cwd(), True)
    code, env = packages(files), {NODES: json.dumps(target.profile.capacity)}
    known = {job.id for job in dashboard.submissions()}
    rest = [job for job in jobs if job.name not in known]
    began = time.time() - rest[0].after if rest else 0.0
    for job in rest:
        time.sleep(max(0.0, began + job.after - time.time()))
        submit(dashboard, Work(job.name, job.command, files, env, metadata=about(target.profile.name, job.name)), code)
        print(f"{job.name}: {job.gpus} GPUs, {job.epochs} epochs", flush=True)


def wait_for_all(target: Target, jobs: list[Arrival]) -> float:
    """Wait until all have ended and all workers are gone, and return when that was seen, in seconds since the epoch."""
    dashboard, names = target.dashboard(), {job.name for job in jobs}
    while missing := names - {job.id for job in dashboard.submissions() if job.done}:
        print(f"{len(missing)} jobs have not ended", flush=True)
        time.sleep(POLL_SECONDS)
    while any(node.group != "head" for node in target.state().nodes):
        time.sleep(POLL_SECONDS)
    return time.time()


def fetch(profile: Profile, jobs: list[Arrival], to: Path) -> None:
    """Copy the cluster's record and the runs' attempts from its storage."""
    with opened(profile, lambda text: None) as storage:
        storage.fetch([f"{record_folder(profile)}/*/*", *(f"runs/{job.name}/attempts.jsonl" for job in jobs)], to)


def recorded(record: Record, data: Path, jobs: list[Arrival]) -> tuple[Jobs, Floats]:
    """What was recorded of jobs that held nodes, sorted by when they asked for them, and how long each has waited for its own.

    A job asks for nodes when its run does: its driver starts before, on the head, and takes longer with every other one.
    """
    found = []
    for job in jobs:
        asked = next(line["time"] for line in lines(data / "runs" / job.name / "attempts.jsonl") if line["event"] == "starting")
        held = [each for each in record.intervals if each.group != "head" and each.work.get(job.name)]
        if not held:
            print(f"{job.name}, {job.gpus} GPUs, held no node, and is left out")
            continue
        begin, end = min(each.begin for each in held), max(each.end for each in held)
        found.append((asked, end - max(begin, asked), job.gpus, max(0.0, begin - asked)))
    asked, seconds, gpus, waits = (np.array(column) for column in zip(*sorted(found), strict=True))
    return Jobs(asked, seconds, gpus, workers=gpus), waits


def lines(path: Path) -> list[dict[str, Any]]:
    """The documents of a file, one a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def compare(profile: Profile, on: str, data: Path, jobs: list[Arrival], until: float) -> None:
    """Print what was recorded in the first seconds beside what the model says, and on a Kubernetes Ray's own autoscaler."""
    files = {str(path): path.read_bytes() for path in data.glob(f"{record_folder(profile)}/*/*.jsonl")}
    whole = read(files)
    assert whole, "the cluster has no record"
    mine = [whole.jobs[job.name] for job in jobs]
    print(f"{sum(job.status == 'SUCCEEDED' for job in mine)} of {len(mine)} jobs succeeded")
    begin, end = min(job.begin or whole.begin for job in mine), float((data / "complete").read_text())
    record = whole.during(begin, min(end, begin + until))
    found, waits = recorded(record, data, jobs)
    in_order = fleet_of(profile)
    stated = replace(in_order, first_fit=True)  # as Ray starts what fits
    real = measured(stated, record)
    print(*describe_times(stated, record), sep="\n")
    table = [summary("recorded", node_seconds(record), waits)]
    fleets = (
        ("model, times of the record", real),
        ("the same, first in, first out", measured(in_order, record)),
        ("model, times of the profile", stated),
    )
    for name, fleet in fleets:
        table.append(summary(name, *spent(simulate(found, fleet))))
    if profile.platform == "kubernetes":
        (group,) = real.groups
        times = {"start_seconds": round(group.start_seconds), "idle_seconds": round(group.seconds_after)}
        as_measured = find(on, [f"groups.{group.name}.{key}={value}" for key, value in times.items()])
        outcome = replay(found, as_measured, first_fit=True)
        table.append(summary("Ray's autoscaler, times of the record", *spent(outcome)))
    print_table(("", "starting", "busy", "idle", "node seconds", "mean wait", "p95", "longest"), table)
    show_savings(record, found, waits, real)


def show_savings(record: Record, jobs: Jobs, waits: Floats, fleet: Fleet) -> None:
    """Print what was saved against static fleets, by the record and by the model."""
    most = peak(jobs, fleet)
    fewest, _ = cheapest(jobs, fleet, percentile_95(waits), most)
    used = {"recorded": sum(node_seconds(record)), "model": simulate(jobs, fleet).node_seconds}
    rows = []
    for name, nodes in (("no job waits", most), ("95 % wait as they did", fewest)):
        static = sum(nodes) * (record.end - record.begin)
        rows.append((f"{sum(nodes)} nodes: {name}", *(f"{1 - seconds / static:.1%}" for seconds in used.values())))
    print_table(("saving against", *used), rows)


def percentile_95(waits: Floats) -> float:
    """The wait that 95 % of the jobs did not exceed, in seconds."""
    return float(np.percentile(waits, 95, method="inverted_cdf"))


def node_seconds(record: Record) -> tuple[float, ...]:
    """Of the workers: starting, busy, and the rest."""
    workers = [each for each in record.intervals if each.group != "head"]
    starting, busy = (sum(each.seconds for each in workers if each.state == state) for state in ("starting", "busy"))
    return starting, busy, sum(each.seconds for each in workers) - starting - busy


def spent(outcome: Outcome) -> tuple[tuple[float, ...], Floats]:
    """Of one group: starting, busy, idle; and the waits."""
    (group,) = outcome.groups
    return (group.starting, group.busy, group.idle), outcome.waits


def summary(name: str, seconds: Sequence[float], waits: Floats) -> tuple[str, ...]:
    """A row of the table; all in seconds."""
    numbers = (*seconds, sum(seconds), waits.mean(), percentile_95(waits), waits.max())
    return (name, *(f"{number:,.0f}" if number > 100 else f"{number:.1f}" for number in numbers))


def main() -> None:
    """Run the jobs, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--on", default=PROFILE)
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--first", type=int, default=5440)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--until", type=float, default=float("inf"), help="compare the first so many seconds of the record")
    args = parser.parse_args()
    on = str(Path(args.on).resolve()) if Path(args.on).is_file() else args.on
    profile = find(on)
    trace = str(Path(args.trace).resolve())
    args.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(args.folder)  # whose files the jobs get
    if not (prefix := Path("prefix")).exists():
        prefix.write_text(f"arrival-{secrets.token_hex(2)}")
    jobs = arrivals(trace, args.first, args.jobs, args.seconds, prefix.read_text())
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = str(ROOT)
    data = Path("data")
    if not (data / "complete").exists():
        subprocess.run([sys.executable, "-m", "heliostat", "up", on], check=True)
        target = open_target(profile)
        submit_all(target, jobs)
        ended = wait_for_all(target, jobs)
        time.sleep(2 * FLUSH_SECONDS)
        fetch(profile, jobs, data)
        (data / "complete").write_text(f"{ended}\n")
    compare(profile, on, data, jobs, args.until)


if __name__ == "__main__":
    main()
