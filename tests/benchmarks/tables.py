"""How well the tasks of tables predict, beside scikit-learn on the same folds: one table.

    python -m venv /tmp/tables && /tmp/tables/bin/pip install -r tests/benchmarks/tables.txt
    python -m tests.benchmarks.tables /tmp/tables/bin/python [--tables german,concrete] [--repeats 5] [--folds 5]

The folds and their scores are kept in ``--folder``; the same command continues where it was stopped.
Every fold is trained by the loop itself, in this process, with the tasks' defaults, on a dataset of the table source whose
splits are those of a column. Scores are areas under the ROC curve (more is better) and, of concrete, root mean squared errors
in MPa (less is better). A difference is ours minus that of the baseline which is better by mean, over the same folds, with its
95 % interval, corrected for folds that share training rows (Nadeau, Bengio 2003).
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from heliostat.workloads.config import TrainConfig
from heliostat.workloads.plan import prepare
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop
from tests.benchmarks import ROOT

TABLES = "german,breast_cancer,concrete,support2,flchain,hdfail"
KINDS = "mlp,gradient-boosting"
BASELINES = ("linear", "hist_gradient_boosting")
NEURAL: dict[str, Any] = {
    "steps": 1000,
    "optimizer": {"lr": 2e-3},
    "evaluate_every": 25,
    "early_stopping": {"patience": 8},
}
TREES: dict[str, Any] = {"steps": 1000, "evaluate_every": 10, "early_stopping": {"patience": 5}}


def train(csv: Path, target: str, number: bool, name: str, storage: str) -> float:
    """The score of a run of ours on the test split of a fold."""
    kind, *settings = name.split("+")
    given = (setting.split("=") for setting in settings)
    trees = kind == "gradient-boosting"
    task = kind if trees else "tabular-regression" if number else "tabular-classification"
    options = {"path": str(csv), "target": target, "split": {"by": "column", "column": "split"}}
    config = TrainConfig.model_validate(
        {
            "name": re.sub(r"\W", "-", name),
            "storage": storage,
            "task": task,
            "model": ({} if trees else {"kind": kind}) | {key: json.loads(value) for key, value in given},
            "dataset": {"source": "table", "options": {**options, "target_type": "number" if number else "class"}},
            "checkpoint_every": 10**6,
            **(TREES if trees else NEURAL),
        }
    )
    plan = prepare(config)
    record, _ = plan.commit()
    found = Loop(plan.folder, record, Ranks.of_this_process(), time.time()).run().metrics["test"]
    score = found["rmse" if number else "auc"]
    assert score is not None
    return score


def interval(differences: Sequence[float], folds: int) -> tuple[float, float]:
    """The mean difference, and half its 95 % interval."""
    mean, count = statistics.fmean(differences), len(differences)
    free, z = count - 1, 1.959964
    # The quantile of Student's t by its expansion in 1 / degrees of freedom: within 1 % from 4 on.
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return mean, t * math.sqrt((1 / count + 1 / (folds - 1)) * statistics.variance(differences))


def main() -> None:
    """Prints a line a table and model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="of the environment with tables.txt")
    parser.add_argument("--tables", default=TABLES)
    parser.add_argument("--kinds", default=KINDS, help="also resnet, ft-transformer and mlp+dropout=0.1+...")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "heliostat-tables"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(exist_ok=True)
    for table in args.tables.split(","):
        command = [args.python, str(ROOT / "tests/benchmarks/tables_baselines.py"), str(args.folder), table]
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        subprocess.run([*command, str(args.repeats), str(args.folds)], check=True, env=environment)
        found = [
            scored(args.folder / f"{table}-{repeat}-{fold}of{args.folds}.json", args.kinds.split(","))
            for repeat in range(args.repeats)
            for fold in range(args.folds)
        ]
        show(table, {name: [scores[name] for scores in found] for name in found[0]}, args.folds)


def scored(path: Path, kinds: list[str]) -> dict[str, float]:
    """The scores of a fold by kind; those that its file does not have yet are measured and added to it."""
    fold = json.loads(path.read_text())
    scores: dict[str, float] = fold["scores"]
    with tempfile.TemporaryDirectory() as storage:
        for kind in kinds:
            if kind not in scores:
                scores[kind] = train(path.with_suffix(".csv"), fold["target"], fold["number"], kind, storage)
                path.write_text(json.dumps(fold))
    return {name: scores[name] for name in (*BASELINES, *kinds)}


def show(table: str, scores: dict[str, list[float]], folds: int) -> None:
    best = (min if table == "concrete" else max)(BASELINES, key=lambda name: statistics.fmean(scores[name]))
    for name, values in scores.items():
        line = f"{table:14} {name:24} {statistics.fmean(values):8.4f}"
        if name not in BASELINES:
            mean, half = interval([a - b for a, b in zip(values, scores[best], strict=True)], folds)
            line += f"   {mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f}) against {best}, {len(values)} folds"
        print(line, flush=True)


if __name__ == "__main__":
    main()
