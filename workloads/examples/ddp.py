"""The smallest DistributedDataParallel script: a network classifies tumours as malignant or benign.

torchrun --nproc-per-node=2 ddp.py
"""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

TABLE = Path(__file__).parents[2] / "datasets/bundled/breast-cancer.parquet"


def setup() -> torch.device:
    if torch.cuda.is_available():
        local_rank = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(local_rank)
        dist.init_process_group("nccl")
        return torch.device("cuda", local_rank)
    dist.init_process_group("gloo")
    return torch.device("cpu")


def main() -> None:
    device = setup()
    rank, world = dist.get_rank(), dist.get_world_size()
    print(f"rank {rank} of {world} is here", flush=True)
    table = pq.read_table(TABLE)
    columns = [np.asarray(table[name]) for name in table.column_names if name != "diagnosis"]
    features = torch.tensor(np.stack(columns, 1), dtype=torch.float32, device=device)
    features = (features - features.mean(0)) / features.std(0)
    labels = torch.tensor([d == "malignant" for d in table["diagnosis"].to_pylist()], dtype=torch.float32, device=device)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(features.shape[1], 32), nn.ReLU(), nn.Linear(32, 1)).to(device)
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    for _ in range(50):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(ddp(features[rank::world])[:, 0], labels[rank::world])
        loss.backward()
        optimizer.step()
    right = ((ddp(features)[:, 0] > 0) == labels.bool()).float().mean()
    if rank == 0:
        print(f"loss {loss.item():.4f} accuracy on the training data {right.item():.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
