"""A Trainer class with its own arguments and its own snapshot, from which it resumes.

torchrun --nproc-per-node=2 snapshots.py 10 2 --batch_size 32
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
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

TABLE = Path(__file__).parents[2] / "datasets/bundled/digits.parquet"


class Trainer:
    def __init__(
        self, model: nn.Module, loader: "DataLoader[tuple[Tensor, ...]]", lr: float, save_every: int, path: str
    ) -> None:
        self.local_rank, self.rank = int(os.environ["LOCAL_RANK"]), int(os.environ["RANK"])
        self.device = torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")
        self.loader, self.save_every, self.path, self.epochs_run = loader, save_every, path, 0
        model = model.to(self.device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        if os.path.exists(path):
            snapshot = torch.load(path, map_location=self.device)
            model.load_state_dict(snapshot["model"])
            self.optimizer.load_state_dict(snapshot["optimizer"])
            self.epochs_run = snapshot["epochs_run"]
            print(f"Resuming from the snapshot at epoch {self.epochs_run}", flush=True)
        self.model = DistributedDataParallel(model)

    def _epoch(self, epoch: int) -> float:
        total = 0.0
        assert isinstance(self.loader.sampler, DistributedSampler)
        self.loader.sampler.set_epoch(epoch)
        for images, labels in self.loader:
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(images.to(self.device)), labels.to(self.device))
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total / len(self.loader)

    def train(self, epochs: int) -> None:
        for epoch in range(self.epochs_run, epochs):
            loss = self._epoch(epoch)
            print(f"[{self.rank}] epoch {epoch} | batches {len(self.loader)} | loss {loss:.4f}", flush=True)
            if self.rank == 0 and (epoch + 1) % self.save_every == 0:
                state = {"model": self.model.module.state_dict(), "optimizer": self.optimizer.state_dict()}
                torch.save({**state, "epochs_run": epoch + 1}, self.path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("total_epochs", type=int)
    parser.add_argument("save_every", type=int)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--snapshot", default="snapshot.pt")
    args = parser.parse_args()

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    table = pq.read_table(TABLE)
    images = torch.tensor(np.stack(table["image"].to_numpy()), dtype=torch.float32) / 16
    data = TensorDataset(images, torch.tensor(np.asarray(table["label"])))
    loader = DataLoader(data, args.batch_size, shuffle=False, sampler=DistributedSampler(data))
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    Trainer(model, loader, args.lr, args.save_every, args.snapshot).train(args.total_epochs)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
