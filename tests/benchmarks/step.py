"""What a callback and exact metrics cost: the CPU time of a step with them, against that of the same run without.

    python -m tests.benchmarks.step

The run is the bundled digits in one process with one thread, a record of the loss every 10 steps and an evaluation every
100. The time is that from the first loss of a run to its last one, with the evaluations between them, without start and report.
A pair is a run without and one with, in turns.
"""

import os
import statistics
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from heliostat import train
from tests.benchmarks.step_task import TIMES

PAIRS, STEPS = 7, 600
TASKS = "tests.benchmarks.step_task"
VARIANTS = {
    "a callback with on_step and on_evaluation": {"callbacks": [f"{TASKS}:Watch"]},
    "three exact metrics": {"task": f"{TASKS}:Exact"},
}


def main() -> None:
    """Print the CPU time of a step, and the median and the range of the paired ratios."""
    with tempfile.TemporaryDirectory() as storage:
        _seconds(storage, "warm")
        for variant, (said, keys) in enumerate(VARIANTS.items()):
            ratios, plain = [], []
            for pair in range(PAIRS):
                name = f"{variant}-{pair}"
                if pair % 2:
                    changed = _seconds(storage, f"{name}-with", **keys)
                plain.append(_seconds(storage, name))
                if not pair % 2:
                    changed = _seconds(storage, f"{name}-with", **keys)
                ratios.append(changed / plain[-1])
            step = 1000 * statistics.median(plain) / (STEPS - 1)
            print(
                f"{said}: {statistics.median(ratios):.3f} of the CPU time without ({min(ratios):.3f} to {max(ratios):.3f}), "
                f"which is {step:.2f} ms a step",
                flush=True,
            )


def _seconds(storage: str, name: str, **keys: object) -> float:
    TIMES.clear()
    common = {"task": f"{TASKS}:Timed", "name": name, "storage": storage, "steps": STEPS, "epochs": None, "evaluate_every": 100}
    train("digits", in_process=True, quiet=True, **{**common, "log_every": 10, "early_stopping": None, **keys})
    return TIMES[-1] - TIMES[0]


if __name__ == "__main__":
    main()
