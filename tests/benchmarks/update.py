"""The CPU time of a step with each kind of optimizer and precision, against AdamW in float32.

python -m tests.benchmarks.update [--steps 200] [--rounds 7]

In one process, with one thread and batches of 64, in turn: an image classifier of 0.2 million parameters.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from heliostat.workloads.config import TrainConfig
from heliostat.workloads.plan import prepare
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop
from tests.benchmarks import spread

KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "sgd": {"optimizer": {"type": "sgd", "options": {"momentum": 0.9}}},
    "own (torch.optim:RMSprop)": {"optimizer": {"type": "torch.optim:RMSprop"}},
    "groups": {"optimizer": {"groups": [{"match": "*.bias", "lr_scale": 2.0}, {"match": "*.weight", "lr_scale": 0.5}]}},
    "ema": {"optimizer": {"ema": 0.999}},
    "clip_value": {"optimizer": {"clip_value": 0.1}},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
}


def steps_of(folder: str, kind: str) -> Callable[[int], float]:
    """A function that makes so many steps of a new run and returns the CPU seconds of each."""
    keys = {
        "name": kind.partition(" ")[0], "storage": folder, "task": "image-classification", "dataset": {"source": "digits"},
        "steps": 1_000_000, **KINDS[kind],
    }  # fmt: skip
    plan = prepare(TrainConfig.model_validate(keys))
    record, _ = plan.commit()
    loop = Loop(plan.folder, record, Ranks.of_this_process(), time.time())
    batches = loop.step.batches(loop.order, 0)

    def make(count: int) -> float:
        upcoming = [next(batches) for _ in range(count)]
        started = time.process_time()
        for batch in upcoming:
            loop._step(batch)
        return (time.process_time() - started) / count

    return make


def main() -> None:
    """Print the milliseconds of a step, and the ratios to the default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        makes = {kind: steps_of(folder, kind) for kind in KINDS}
        for make in makes.values():
            make(5)
        rounds = [{kind: make(args.steps) for kind, make in makes.items()} for _ in range(args.rounds)]
    for kind in KINDS:
        seconds, ratios = [1000 * each[kind] for each in rounds], [each[kind] / each["default"] for each in rounds]
        print(f"{kind}: {spread(seconds)} ms a step, {spread(ratios)} of the default")


if __name__ == "__main__":
    main()
