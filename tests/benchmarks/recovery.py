"""From the command to the first step, and from kill -9 of a worker to the next step that was not done before: Heliostat against
Ray Train's own defaults, with the same model and two workers, in turn.

python -m tests.benchmarks.recovery [REPETITIONS]
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks import ROOT, spread

PLAIN = [sys.executable, "-m", "tests.benchmarks.plain_train"]
OURS = [
    sys.executable, "-m", "heliostat", "train", "workloads/configs/digits.yaml",
    *("--set", "epochs=null", "--set", "steps=100000", "--set", "evaluate_every=100000"),
    *("--set", "checkpoint_every=100", "--set", "log_every=1"),
]  # fmt: skip
WARM = 150
"""The step at which the kill comes: after a checkpoint."""


def records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def waits(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 300
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the training ended or did not go on: {process.poll()}")
        time.sleep(0.02)


def measure(command: list[str], steps: Path) -> tuple[float, float]:
    """Seconds to the first step and from a kill to the first new step."""
    launched = time.time()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        waits(lambda: any(r["step"] >= WARM for r in records(steps)), process)
        first = min(r["time"] for r in records(steps)) - launched
        workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
        killed, done = time.time(), max(r["step"] for r in records(steps))
        workers[1].kill()
        waits(lambda: any(r["time"] > killed + 1 and r["step"] > done for r in records(steps)), process)
        again = min(r["time"] for r in records(steps) if r["time"] > killed + 1 and r["step"] > done)
        return first, again - killed
    finally:
        tree = psutil.Process(process.pid).children(recursive=True)
        for child in [*tree, process]:
            try:
                child.send_signal(signal.SIGKILL)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        process.wait()


def parts(run: Path) -> str:
    """Where our recovery's seconds went, from the run's own records."""
    attempts, events = records(run / "attempts.jsonl"), records(run / "events.jsonl")
    at = {name: [a["time"] for a in attempts if a["event"] == name] for name in ("failed", "starting", "running")}
    starts = [e["time"] for e in events if e["event"] == "start"]
    firsts = [e["time"] for e in events if e["event"] == "first_step"]
    return (
        f"workers and their process group {at['running'][-1] - at['failed'][-1]:.1f} s, "
        f"model, data and checkpoint {starts[-1] - at['running'][-1]:.1f} s, first step {firsts[-1] - starts[-1]:.1f} s"
    )


def main() -> None:
    """Print both ratios with their spread."""
    first: list[float] = []
    recovery: list[float] = []
    for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        with tempfile.TemporaryDirectory() as folder:
            ours = [*OURS, "--set", f"storage={folder}", "--set", "name=ours"]
            pairs = {
                "heliostat": (ours, Path(folder, "ours/metrics.jsonl")),
                "ray train": ([*PLAIN, folder], Path(folder, "steps.jsonl")),
            }
            order = list(pairs) if number % 2 == 0 else list(pairs)[::-1]
            seconds = {name: measure(*pairs[name]) for name in order}
            for name, (start, again) in seconds.items():
                print(f"{name:<10} first step {start:5.1f} s, kill to the next new step {again:5.1f} s", flush=True)
            print(f"           ours: {parts(Path(folder, 'ours'))}")
            first.append(seconds["heliostat"][0] / seconds["ray train"][0])
            recovery.append(seconds["heliostat"][1] / seconds["ray train"][1])
    print(f"first step, heliostat / ray train    {spread(first, 2)}")
    print(f"recovery, heliostat / ray train      {spread(recovery, 2)}")


if __name__ == "__main__":
    main()
