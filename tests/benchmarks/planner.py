"""The speed and the memory of the planner: jobs a second of the event model, by how many there are, and of reading a trace.

python -m tests.benchmarks.planner TRACE [ROWS]: TRACE is repeated, each time after its end, to a million jobs; ROWS is
how many rows of a table are written and read (default: 10,000,000).
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from heliostat.cluster.planner.fleet import fleet_of
from heliostat.cluster.planner.jobs import Jobs
from heliostat.cluster.planner.model import simulate
from heliostat.cluster.planner.trace import read_trace
from heliostat.cluster.profile import find

PROFILE = str(Path(__file__).parent / "itp.yaml")


def repeated(jobs: Jobs, count: int) -> Jobs:
    """So many jobs: those of a trace, again and again."""
    times = -(-count // len(jobs))
    length = jobs.submitted[-1] - jobs.submitted[0] + 1
    shifts = np.repeat(np.arange(times) * length, len(jobs))
    submitted = np.tile(jobs.submitted, times) + shifts
    return Jobs(submitted[:count], np.tile(jobs.seconds, times)[:count], np.tile(jobs.gpus, times)[:count])


def peak_memory() -> float:
    """Of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(trace: str, rows: str = "10000000") -> None:
    """Print a line for each size."""
    jobs = read_trace(trace).jobs
    fleet = fleet_of(find(PROFILE))
    for count in (len(jobs), 100_000, 1_000_000):
        more = repeated(jobs, count)
        begin = time.process_time()
        simulate(more, fleet)
        print(f"{count:,} jobs: {count / (time.process_time() - begin):,.0f} a second, peak memory {peak_memory():,.0f} MB")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "jobs.csv")
        with path.open("w") as file:
            file.write("job_id,submission_time,duration,num_gpu\n")
            file.writelines(f"job-{n},{n},{n % 5000},{n % 9}\n" for n in range(int(rows)))
        begin = time.process_time()
        read = read_trace(path)
        seconds = time.process_time() - begin
        print(f"{len(read.jobs):,} rows read in {seconds:.1f} s of CPU time, peak memory {peak_memory():,.0f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
