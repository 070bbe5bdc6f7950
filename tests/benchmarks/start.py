"""How long ``heliostat --help`` takes against ``python -c pass``, and the CPU time of a dry run, pair by pair.

python -m tests.benchmarks.start
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks import spread


def seconds(*command: str) -> float:
    """The wall time of a command."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def cpu_seconds(*command: str) -> float:
    """The CPU time of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the ratios over 20 and 5 pairs."""
    program = str(Path(sys.executable).parent / "heliostat")
    ratios = [seconds(program, "--help") / seconds(sys.executable, "-c", "pass") for _ in range(20)]
    print(f"heliostat --help / python -c pass, 20 pairs   {spread(ratios, 2)}")
    dry_run = (program, "train", "digits", "--dry-run")
    pairs = [(cpu_seconds(*dry_run), cpu_seconds(sys.executable, "-c", "import torch")) for _ in range(5)]
    print(f"CPU seconds of a dry run, 5 times             {spread([ours for ours, _ in pairs], 2)}")
    print(f"the same / python -c 'import torch'           {spread([ours / theirs for ours, theirs in pairs], 2)}")


if __name__ == "__main__":
    main()
