"""What a checkpoint costs the training: written beside it, and with training standing still, by the size of the state.

python -m tests.benchmarks.checkpoint [FOLDER]
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from heliostat.datasets.loader import Batch
from heliostat.folder import Folder
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.plan import prepare
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS
from heliostat.workloads.tasks import language_model
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop
from tests.benchmarks import spread

SIZES = {"small": (128, 4), "medium": (384, 8), "large": (768, 12)}
"""Width and layers."""
CHECKPOINTS, EVERY = 5, 2


def measured(storage: str, text: Path, size: str, beside: bool) -> tuple[float, list[float], list[float]]:
    """Megabytes of a checkpoint, and for each the seconds that training stood still and those until it was there."""
    width, layers = SIZES[size]
    config = TrainConfig.model_validate(
        {
            "name": f"{size}-{beside}", "storage": storage, "task": "language-model", "steps": EVERY * CHECKPOINTS,
            "model": {"width": width, "layers": layers, "heads": 4}, "global_batch": 2, "checkpoint_every": EVERY,
            "dataset": {"source": "text", "options": {"path": str(text), "length": 32}}, "checkpoint_async": beside,
            "evaluate_every": 1000, "evaluate_samples": 2,
        }
    )  # fmt: skip
    plan = prepare(config)
    record, _ = plan.commit()
    loop = Loop(plan.folder, record, Ranks.of_this_process(), time.time())
    step = loop._step

    def watched(batch: Batch) -> None:
        step(batch)
        if loop.progress.step % EVERY == EVERY - 1:
            loop.checkpointer.finish()  # checkpoints are further apart than it takes to write one

    loop._step = watched  # type: ignore[method-assign]
    loop.run()
    # Not the first, which makes the buffers, nor the last, which is always waited for.
    saved = [e for e in read_journal(Folder.at(plan.uri), EVENTS) if e["event"] == "checkpoint"][1:-1]
    return saved[0]["bytes"] / 1e6, [e["seconds"] for e in saved], [e["written"] for e in saved]


def main() -> None:
    """Print a line for each size."""
    language_model.SAMPLE_TOKENS = 1
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as storage:
        text = Path(storage) / "text"
        text.mkdir()
        for number in range(40):
            (text / f"{number}.txt").write_text(f"{number} " + "the sun is bright and the mirrors turn. " * 20)
        print("seconds: median (least to most)")
        for size in SIZES:
            megabytes, still, written = measured(storage, text, size, beside=True)
            _, standing, _ = measured(storage, text, size, beside=False)
            ratio = statistics.median(standing) / statistics.median(still)
            print(
                f"{megabytes:7.1f} MB: beside the training {spread(still, 4)} of {spread(written, 3)}, "
                f"standing still {spread(standing, 4)}: {ratio:.0f} times"
            )


if __name__ == "__main__":
    main()
