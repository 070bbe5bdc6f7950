"""The digits example as one would write it without Heliostat: DistributedDataParallel, DataLoader, torchrun.

Run by ``tests/benchmarks/torchrun.py``; prints one line of JSON from rank 0. The model is Heliostat's, so that the
comparison is about everything around it.
"""

import gc
import json
import math
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from heliostat.workloads.tasks.image_classification import ResNet, _shift

STEPS, BATCH, LR, WARMUP = int(sys.argv[1]), 64, 0.003, 40


def main() -> None:
    """Train, and print when each 10th step was done."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    table = pq.read_table("datasets/bundled/digits.parquet").slice(0, 1295)
    images = torch.from_numpy(np.asarray(table["image"].combine_chunks().flatten()).reshape(-1, 1, 8, 8).copy())
    data = TensorDataset(images, torch.from_numpy(np.asarray(table["label"]).copy()))
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(data, shuffle=True, drop_last=True)
    loader = DataLoader(data, batch_size=BATCH // world, sampler=sampler, drop_last=True)
    stats = {"mean": [images.float().mean().item()], "std": [images.float().std().item()]}
    model = DistributedDataParallel(ResNet(1, 32, 2, 1, 10, 0.1, stats), gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: (s + 1) / WARMUP if s < WARMUP else 0.5 * (1 + math.cos(math.pi * (s - WARMUP) / (STEPS - WARMUP)))
    )
    times: dict[int, float] = {}
    step, epoch, total = 0, 0, torch.zeros(())
    while step < STEPS:
        sampler.set_epoch(epoch)
        for batch, labels in loader:
            loss = F.cross_entropy(model(_shift(batch, 1)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.detach()
            step += 1
            if step == 1 or step % 10 == 0:
                total.item()
                times[step] = time.time()
            if step == STEPS:
                break
        epoch += 1
    if rank == 0:
        print(json.dumps({"times": times}), flush=True)
    # While the model holds the process group, gloo's threads may abort at exit (seen on torch 2.15).
    del model, loss
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
