"""What early stopping and TPE save: the work until a sweep is as good as random search without either at its end.

python -m tests.benchmarks.sweep_quality CONFIG [SEEDS] [PICTURE.svg]

Work is counted in training steps, which a busy machine does not change: on equal steps it is GPU-seconds. For each seed,
random search runs all trials to their ends; the config's own TPE and ASHA then get three times as many trials, and their
work is counted until one has reported a value that is at least as good.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.config import load
from heliostat.folder import Folder
from heliostat.tuning.config import SweepConfig
from heliostat.tuning.drive import drive
from heliostat.tuning.journal import read_journal
from heliostat.tuning.plan import plan_sweep
from heliostat.workloads.run.figures import new_figure, svg
from tests.benchmarks import spread

Point = tuple[int, float]


def searched(config: str, storage: str, **changes: Any) -> list[Point]:
    """(steps of all trials so far, the best value that any has reported so far), at each report."""
    base = load(config, SweepConfig, defaults={"name": "quality"}).model_dump(exclude_unset=True)
    sweep = SweepConfig.model_validate({**base, "storage": storage, **changes})
    plan = plan_sweep(sweep, [{"CPU": 2.0, "GPU": 0.0}])
    drive(plan)
    sign = 1 if plan.mode == "max" else -1
    points: list[Point] = []
    steps, best = 0, float("-inf")
    at: dict[int, int] = {}
    for record in read_journal(Folder.at(plan.uri)):
        if record["event"] == "report":
            steps += record["step"] - at.get(record["trial"], 0)
            at[record["trial"]] = record["step"]
            value = record["metrics"][plan.metric]
            best = best if value is None else max(best, sign * value)
            points.append((steps, best))
    return points


def picture(runs: Sequence[tuple[list[Point], list[Point]]]) -> str:
    """The best so far over the work, as a share of random search's: a thin line for each seed, a thick one for the median."""
    figure, axes = new_figure(width=7, height=4)
    share = np.linspace(0.02, 1, 200)
    for number, (name, colour) in enumerate((("random search", "#66707d"), ("TPE and ASHA", "#2563a8"))):
        lines = np.array([best_at(pair[number], share * pair[0][-1][0]) for pair in runs])
        axes.step(share, lines.T, where="post", color=colour, alpha=0.25, linewidth=1)
        axes.step(share, np.median(lines, axis=0), where="post", color=colour, linewidth=2.2, label=f"{name}, median")
    # The first trials of all are far below, and not what this is about.
    seen = np.concatenate([best_at(points, share[share > 0.15] * pair[0][-1][0]) for pair in runs for points in pair])
    margin = 0.05 * (seen.max() - seen.min())
    axes.set_ylim(seen.min() - margin, seen.max() + margin)
    axes.set_xlim(0, 1)
    axes.set_xlabel("training steps of all trials, as a share of random search's")
    axes.set_ylabel("best so far (higher is better)")
    axes.legend(frameon=False, loc="lower right")
    return svg(figure)


def best_at(points: Sequence[Point], work: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The best so far after each amount of work, (len(work),); before the first report, what that says."""
    steps, best = np.array(points, np.float64).T
    found: npt.NDArray[np.float64] = best[np.maximum(np.searchsorted(steps, work, side="right") - 1, 0)]
    return found


def main() -> None:
    """Print the ratios and write the picture."""
    import ray

    config = sys.argv[1]
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="error", object_store_memory=200 << 20)
    runs, ratios = [], []
    with tempfile.TemporaryDirectory() as storage:
        trials = load(config, SweepConfig, defaults={"name": "quality"}).trials or 20
        for seed in range(seeds):
            random = searched(config, storage, name=f"random-{seed}", seed=seed, algorithm="random", scheduler="none")
            clever = searched(config, storage, name=f"clever-{seed}", seed=seed, trials=3 * trials)
            whole, goal = random[-1]
            reached = next((steps for steps, best in clever if best >= goal), None)
            ratios.append(reached / whole if reached else float("inf"))
            runs.append((random, clever))
            print(f"seed {seed}: random {goal:.4f} after {whole} steps; TPE and ASHA as good after {reached}", flush=True)
    print(f"work until as good as random search's end, as a share of its work: {spread(ratios)}")
    print(f"median {statistics.median(ratios):.2f}")
    if len(sys.argv) > 3:
        Path(sys.argv[3]).write_text(picture(runs))


if __name__ == "__main__":
    main()
