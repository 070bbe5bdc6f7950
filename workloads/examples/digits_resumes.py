"""The same as digits.py, with checkpoints and resume: the three lines that differ are marked.

heliostat torchrun --workers 2 --max-restarts 3 digits_resumes.py --epochs 8
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from heliostat.torchrun import resume, save  # new

TABLE = Path(__file__).parents[2] / "datasets/bundled/digits.parquet"


class Digits(Dataset[tuple[Tensor, int]]):
    """Every fifth image is for testing."""

    def __init__(self, train: bool) -> None:
        table = pq.read_table(TABLE)
        images = np.stack(table["image"].to_numpy()).reshape(-1, 1, 8, 8)
        chosen = (np.arange(len(images)) % 5 != 0) == train
        self.images, self.labels = images[chosen], np.asarray(table["label"])[chosen]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor(self.images[index], dtype=torch.float32) / 16, int(self.labels[index])


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


@torch.no_grad()
def accuracy(model: nn.Module, device: torch.device) -> float:
    right = [(model(x.to(device)).argmax(1) == y.to(device)).float() for x, y in DataLoader(Digits(train=False), 128)]
    return torch.cat(right).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32, help="a process")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--loader-workers", type=int, default=1)
    args = parser.parse_args()

    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(0)
    data = Digits(train=True)
    sampler: DistributedSampler[tuple[Tensor, int]] = DistributedSampler(data)
    loader = DataLoader(
        data, args.batch_size, sampler=sampler, num_workers=args.loader_workers, persistent_workers=args.loader_workers > 0
    )
    model = DistributedDataParallel(network().to(device))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    for epoch in range(resume(model=model, optimizer=optimizer), args.epochs):  # new
        sampler.set_epoch(epoch)
        total = torch.zeros((), device=device)
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        if dist.get_rank() == 0:
            print(f"epoch {epoch + 1} loss {total.item() / len(loader) / dist.get_world_size():.6f}", flush=True)
        save(epoch + 1, model=model, optimizer=optimizer)  # new
    if dist.get_rank() == 0:
        print(f"accuracy {accuracy(model.module, device):.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
