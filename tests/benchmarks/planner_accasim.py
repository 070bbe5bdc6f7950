"""The speed of AccaSim, a simulator of batch systems, on a static fleet, to compare with that of tests.benchmarks.planner.

PYTHON tests/benchmarks/planner_accasim.py TRACE NODES: PYTHON is that of an environment with accasim 1.1.3, which is no
requirement of ours; the jobs run first in, first out and first fit on so many nodes of 8 GPUs, which are its cores.
"""

import collections.abc
import csv
import json
import os
import sys
import tempfile
import time
from pathlib import Path

collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]  # which accasim needs, and Python 3.10 removed

from accasim.base.allocator_class import FirstFit  # noqa: E402
from accasim.base.scheduler_class import FirstInFirstOut  # noqa: E402
from accasim.base.simulator_class import Simulator  # noqa: E402

SWF = "{id} {submit} -1 {seconds} {gpus} -1 1 {gpus} {seconds} 1 1 1 1 1 1 1 -1 -1\n"
"""The Standard Workload Format: job, submission, wait, run time, processors, CPU time, memory, requested ones, and so on."""


def main(trace: str, nodes: str) -> None:
    """Print jobs a second of CPU time."""
    with open(trace) as file:
        jobs = [row for row in csv.DictReader(file) if 0 < int(row["num_gpu"]) <= 8 * int(nodes)]
    jobs.sort(key=lambda row: float(row["submission_time"]))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("jobs.swf").write_text(
            "".join(
                SWF.format(id=n, submit=int(float(row["submission_time"])), seconds=int(row["duration"]), gpus=row["num_gpu"])
                for n, row in enumerate(jobs, 1)
            )
        )
        system = {
            "system_name": "static", "start_time": 0, "equivalence": {"processor": {"core": 1}},
            "groups": {"node": {"core": 8, "mem": 1000}}, "resources": {"node": int(nodes)},
        }  # fmt: skip
        Path("system.json").write_text(json.dumps(system))
        begin = time.process_time()
        Simulator(
            "jobs.swf", "system.json", FirstInFirstOut(FirstFit()), RESULTS_FOLDER_NAME=f"{folder}/results",
            scheduling_output=False, statistics_output=False, show_statistics=False,
        ).start_simulation()  # fmt: skip
        seconds = time.process_time() - begin
    print(f"{len(jobs):,} jobs: {len(jobs) / seconds:,.0f} a second")


if __name__ == "__main__":
    main(*sys.argv[1:])
