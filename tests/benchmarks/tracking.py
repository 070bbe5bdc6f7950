"""What tracking costs: the CPU time of the process that tracks, against that of the training beside it, in the same seconds.

    python -m tests.benchmarks.tracking [TRACKER ...]       (tensorboard; mlflow with MLFLOW_TRACKING_URI; wandb offline)

The run is the bundled digits with a record of the loss every 10 steps, in one process with one thread. The first seconds, in
which libraries are imported, are printed apart; then each pair is an interval of 10 s.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PAIRS, SECONDS = 5, 10.0


def main(trackers: list[str]) -> None:
    """Print the CPU time at the start, and the median and the range of the ratio."""
    with tempfile.TemporaryDirectory() as place:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
        options = ["--set", "epochs=1000", "--set", f"tracking=[{','.join(trackers)}]", "--set", "evaluate_every=100"]
        with subprocess.Popen(
            [sys.executable, "-m", "heliostat", "train", "digits", "--in-process", *options],
            cwd=place, env=env, stderr=subprocess.DEVNULL,
        ) as run:  # fmt: skip
            try:
                _measure(psutil.Process(run.pid), Path(place), trackers)
            finally:
                run.kill()


def _measure(run: psutil.Process, place: Path, trackers: list[str]) -> None:
    while not _opened(place, len(trackers)):
        assert run.status() != psutil.STATUS_ZOMBIE, "the run has ended: give its command by hand to see why"
        time.sleep(0.5)
    time.sleep(3)
    tracking = run.children()[0]
    print(f"{', '.join(trackers)}: start {_cpu(tracking):.2f} s of CPU, {tracking.memory_info().rss >> 20} MB")
    ratios = []
    for _ in range(PAIRS):
        before = _cpu(run), _cpu(tracking)
        time.sleep(SECONDS)
        ratios.append((_cpu(tracking) - before[1]) / (_cpu(run) - before[0]))
    print(f"  of the training's CPU time: {statistics.median(ratios):.2%} ({min(ratios):.2%} to {max(ratios):.2%})", flush=True)


def _opened(place: Path, count: int) -> bool:
    journal = place / "runs/digits/tracking.jsonl"
    return journal.exists() and journal.read_text().count('"opened"') == count


def _cpu(process: psutil.Process) -> float:
    """Of a process and those that it has started, but not of the one that tracks."""
    others = [child for child in process.children() if "heliostat.commands.runs.following" not in child.cmdline()]
    times = [each.cpu_times() for each in (process, *others)]
    return float(sum(each.user + each.system for each in times))


if __name__ == "__main__":
    main(sys.argv[1:] or ["tensorboard"])
