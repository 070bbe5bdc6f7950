"""The digits example as the documentation of Ray Train has it: TorchTrainer, a checkpoint by ``ray.train.report``, defaults.

Run by ``tests/benchmarks/recovery.py``: python -m tests.benchmarks.plain_train FOLDER; each step of rank 0 is a line of
``steps.jsonl`` there. The model is Heliostat's.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import ray
import ray.train
import torch
import torch.nn.functional as F
from ray.train.torch import TorchTrainer, prepare_model
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

EVERY = 100
"""Steps between checkpoints."""


def loop(config: dict[str, str]) -> None:
    from heliostat.workloads.tasks.image_classification import ResNet

    rank, world = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    torch.manual_seed(0)
    table = pq.read_table(config["data"]).slice(0, 1295)
    images = torch.from_numpy(np.asarray(table["image"].combine_chunks().flatten()).reshape(-1, 1, 8, 8).copy())
    data = TensorDataset(images, torch.from_numpy(np.asarray(table["label"]).copy()))
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(data, world, rank, drop_last=True)
    loader = DataLoader(data, batch_size=64 // world, sampler=sampler, drop_last=True)
    stats = {"mean": [images.float().mean().item()], "std": [images.float().std().item()]}
    model = prepare_model(ResNet(1, 32, 2, 1, 10, 0.1, stats), move_to_device=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    step = 0
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            state = torch.load(os.path.join(folder, "state.pt"))
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    while step < 100_000:
        sampler.set_epoch(step)
        for batch, labels in loader:
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(batch), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if rank == 0:
                with open(os.path.join(config["folder"], "steps.jsonl"), "a") as file:
                    file.write(json.dumps({"time": time.time(), "step": step}) + "\n")
            if step % EVERY == 0:
                with tempfile.TemporaryDirectory() as scratch:
                    checkpoint = None
                    if rank == 0:
                        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                        torch.save(state, os.path.join(scratch, "state.pt"))
                        checkpoint = ray.train.Checkpoint.from_directory(scratch)
                    ray.train.report({"step": step}, checkpoint=checkpoint)


def main() -> None:
    """Train until killed."""
    folder = Path(sys.argv[1])
    ray.init(num_cpus=2, log_to_driver=False)
    TorchTrainer(
        loop,
        train_loop_config={"folder": str(folder), "data": str(Path("datasets/bundled/digits.parquet").resolve())},
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(
            name="plain", storage_path=str(folder), failure_config=ray.train.FailureConfig(max_failures=-1)
        ),
    ).fit()


if __name__ == "__main__":
    main()
