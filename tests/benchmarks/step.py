"""What a callback and exact metrics cost: the CPU time of a step with them, against that of the same run without.

    python -m tests.benchmarks.step

The run is the bundled digits in one process with one thread, a record of the loss every 10 steps and an evaluation every
100. The time is that from the first loss of a run to its last one, with the evaluations between them, without start and report.
A pair is a run without and one with, in turns.
"""

import os
import statistics
import tempfile
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from heliostat import train
from tests.benchmarks.step_task import TIMES

PAIRS, STEPS = 5, 400
TASKS = "tests.benchmarks.step_task"
VARIANTS: dict[str, dict[str, Any]] = {
    "a callback with on_step and on_evaluation": {"callbacks": [f"{TASKS}:Watch"]},
    "three exact metrics": {"task": f"{TASKS}:Exact"},
}


def main() -> None:
    """Print the CPU time of a step, and the median and the range of the paired ratios."""
    with tempfile.TemporaryDirectory() as storage:
        _milliseconds(storage, "warm")
        for number, (variant, keys) in enumerate(VARIANTS.items()):
            pairs = [_pair(storage, f"{number}-{pair}", keys, pair % 2 == 0) for pair in range(PAIRS)]
            ratios = [changed / plain for plain, changed in pairs]
            step = statistics.median(plain for plain, _ in pairs)
            added = statistics.median(changed - plain for plain, changed in pairs)
            print(f"{variant}: {added:+.2f} ms to a step of {step:.2f} ms of CPU time")
            print(f"  {statistics.median(ratios):.3f} times that without ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)


def _pair(storage: str, name: str, keys: dict[str, Any], plain_first: bool) -> tuple[float, float]:
    """The milliseconds of a step without and with ``keys``."""
    runs = {"plain": {}, "changed": keys}
    order = [*runs] if plain_first else [*reversed(runs)]
    found = {run: _milliseconds(storage, f"{name}-{run}", **runs[run]) for run in order}
    return found["plain"], found["changed"]


def _milliseconds(storage: str, name: str, **keys: Any) -> float:
    TIMES.clear()
    lengths = {"steps": STEPS, "epochs": None, "evaluate_every": 100, "log_every": 10, "early_stopping": None}
    settings: dict[str, Any] = {"task": f"{TASKS}:Timed", "name": name, "storage": storage, **lengths, **keys}
    train("digits", in_process=True, quiet=True, **settings)
    return 1000 * (TIMES[-1] - TIMES[0]) / (STEPS - 1)


if __name__ == "__main__":
    main()
