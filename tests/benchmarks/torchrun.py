"""Heliostat against a plain torchrun script: the same model and data, two workers, in turn, in one run.

Heliostat writes a checkpoint each 30 seconds, beside the training and again with training standing still; the script none.

python -m tests.benchmarks.torchrun [REPETITIONS] [STEPS]
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.benchmarks import ROOT, spread

STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
BATCH, STEADY_FROM, CHECKPOINT_SECONDS = 64, STEPS // 10, 30
MB = 1 << 20


@dataclass
class Run:
    """What one training showed: when each 10th step was done, and the peak memory of its processes."""

    launched: float
    times: dict[int, float]
    driver_mb: float
    worker_mb: float
    stood: float = 0.0
    """Seconds that training stood still for checkpoints before its end."""
    checkpoints: int = 0

    @property
    def throughput(self) -> float:
        """Samples a second after the first steps, by the clock on the wall."""
        first, last = STEADY_FROM, max(self.times)
        return (last - first) * BATCH / (self.times[last] - self.times[first])

    @property
    def first_step(self) -> float:
        return self.times[min(self.times)] - self.launched


class Memory(threading.Thread):
    """Looks at a process tree several times a second and keeps the highest resident sizes."""

    def __init__(self, pid: int, worker: str) -> None:
        super().__init__(daemon=True)
        self.root, self.worker = psutil.Process(pid), worker
        self.driver_mb = self.worker_mb = 0.0

    def run(self) -> None:
        while self.root.is_running() and self.root.status() != psutil.STATUS_ZOMBIE:
            try:
                self.driver_mb = max(self.driver_mb, self.root.memory_info().rss / MB)
                for process in self.root.children(recursive=True):
                    if self.worker in " ".join(process.cmdline()):
                        self.worker_mb = max(self.worker_mb, process.memory_info().rss / MB)
            except psutil.NoSuchProcess:
                continue
            time.sleep(0.2)


def timed(command: Sequence[str], worker: str) -> tuple[float, Memory, str]:
    """Run a command to its end; when it was launched, its memory and its output."""
    launched = time.time()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    memory = Memory(process.pid, worker)
    memory.start()
    out, err = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{err}")
    memory.join()
    return launched, memory, out


def heliostat(beside: bool) -> Run:
    """Train by ``heliostat train``, logging each 10 steps, with checkpoints written ``beside`` the training or not."""
    with tempfile.TemporaryDirectory() as storage:
        keys = {
            "storage": storage, "epochs": "null", "steps": STEPS, "evaluate_every": STEPS, "checkpoint_every": STEPS,
            "checkpoint_seconds": CHECKPOINT_SECONDS, "checkpoint_async": str(beside).lower(),
        }  # fmt: skip
        sets = [f"--set={key}={value}" for key, value in keys.items()]
        command = [sys.executable, "-m", "heliostat", "train", "workloads/configs/digits.yaml", *sets]
        launched, memory, _ = timed(command, "RayTrainWorker")
        run = Path(storage) / "digits"
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    times = {r["step"]: r["time"] for r in records if r["kind"] == "train"}
    times[1] = next(e["time"] for e in events if e["event"] == "first_step")
    saved = [e["seconds"] for e in events if e["event"] == "checkpoint" and e["step"] < STEPS]
    return Run(launched, times, memory.driver_mb, memory.worker_mb, sum(saved), len(saved))


def torchrun() -> Run:
    """Train by the plain script."""
    program = str(Path(sys.executable).parent / "torchrun")
    command = ["env", "OMP_NUM_THREADS=1", f"PYTHONPATH={ROOT}", program, "--standalone", "--nproc-per-node=2"]
    launched, memory, out = timed([*command, "tests/benchmarks/plain_ddp.py", str(STEPS)], "plain_ddp.py")
    times = {int(step): at for step, at in json.loads(out.splitlines()[-1])["times"].items()}
    return Run(launched, times, memory.driver_mb, memory.worker_mb)


def main() -> None:
    """Print the comparison."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    ways: list[Callable[[], Run]] = [lambda: heliostat(True), lambda: heliostat(False), torchrun]
    rounds = []
    for number in range(repetitions):
        # The order changes, so that a machine that becomes slower favours none.
        order = [(number + place) % len(ways) for place in range(len(ways))]
        done = {way: ways[way]() for way in order}
        rounds.append([done[way] for way in range(len(ways))])
        print(f"{number + 1}: " + ", ".join(f"{run.throughput:.0f}" for run in rounds[-1]) + " samples/s", file=sys.stderr)
    ours_runs, standing_runs, plain_runs = zip(*rounds, strict=True)
    start = [ours.first_step / plain.first_step for ours, _, plain in rounds]
    print(f"digits, 2 workers, {STEPS} steps of {BATCH}, {repetitions} repetitions: median (least to most)")
    for name, runs in (("beside the training", ours_runs), ("standing still", standing_runs)):
        ratio = [run.throughput / plain.throughput for run, plain in zip(runs, plain_runs, strict=True)]
        print(f"steady throughput, heliostat / torchrun, checkpoints {name}  {spread(ratio, 3)}")
        print(f"  heliostat, samples a second             {spread([r.throughput for r in runs], 0)}")
        print(f"  checkpoints, seconds stood still a run  {spread([r.checkpoints for r in runs], 0)}, "
              f"{spread([r.stood for r in runs], 3)}")  # fmt: skip
    print(f"  torchrun, samples a second              {spread([r.throughput for r in plain_runs], 0)}")
    print(f"time to the first step, heliostat / torchrun  {spread(start, 2)}")
    print(f"  heliostat, seconds                      {spread([r.first_step for r in ours_runs], 1)}")
    print(f"  torchrun, seconds                       {spread([r.first_step for r in plain_runs], 1)}")
    print(f"peak memory of a worker, MB: heliostat {max(r.worker_mb for r in ours_runs):.0f}, "
          f"torchrun {max(r.worker_mb for r in plain_runs):.0f}")  # fmt: skip
    print(f"peak memory of the driver, MB: heliostat {max(r.driver_mb for r in ours_runs):.0f}, "
          f"torchrun {max(r.driver_mb for r in plain_runs):.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
