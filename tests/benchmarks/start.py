"""How long ``heliostat --help`` takes against ``python -c pass``, pair by pair.

python -m tests.benchmarks.start
"""

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


def main() -> None:
    """Print the ratio over 20 pairs."""
    program = str(Path(sys.executable).parent / "heliostat")
    ratios = [seconds(program, "--help") / seconds(sys.executable, "-c", "pass") for _ in range(20)]
    print(f"heliostat --help / python -c pass, 20 pairs   {spread(ratios, 2)}")


if __name__ == "__main__":
    main()
