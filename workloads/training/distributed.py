"""The workers of one run as they see each other, one or many."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

T = TypeVar("T")


def join(rank: int, world: int, address: str, tell: Callable[[Any], Any], seconds: float) -> None:
    """Form the process group of all workers.

    Args:
        rank, world: this worker's number and that of all workers.
        address: where the others reach this worker.
        tell: brings to all workers what the first one gives.
        seconds: how long one waits for another, here and in each collective.

    Raises:
        RuntimeError: some do not come.
    """
    timeout = timedelta(seconds=seconds)
    first: dict[str, Any] = {}
    listener = socket.create_server(("", 0), backlog=1024) if rank == 0 else None
    host, port = tell((address, listener.getsockname()[1]) if listener else None)
    if listener:  # the very socket, so that no other process can take the port in between
        first = {"is_master": True, "wait_for_workers": False, "master_listen_fd": listener.detach()}
    store = TCPStore(host, port, world, timeout=timeout, **first)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timeout)


@dataclass(frozen=True)
class Ranks:
    """A worker's rank and device, and what it can do together with the others.

    The default process group is gloo, for numbers and objects; gradients go by NCCL where there is CUDA.
    """

    rank: int
    world: int
    device: torch.device
    gradients: dist.ProcessGroup | None = None

    @classmethod
    def of_this_process(cls, cuda: bool = True) -> "Ranks":
        """From torch.distributed if it is set up, otherwise alone; on CUDA if that is wanted and there."""
        on_gpu = cuda and torch.cuda.is_available()
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        if not dist.is_initialized():
            return cls(0, 1, device)
        group = dist.new_group(backend="nccl") if device.type == "cuda" else None
        return cls(dist.get_rank(), dist.get_world_size(), device, group if isinstance(group, dist.ProcessGroup) else None)

    def share(self, total: int) -> tuple[int, int]:
        """This worker's contiguous part of ``total`` things."""
        return total * self.rank // self.world, total * (self.rank + 1) // self.world

    def all_gather(self, row: list[float]) -> Tensor:
        """A row of numbers from each worker: (world, len(row)), float64, on the CPU, the same on all."""
        mine = torch.tensor(row, dtype=torch.float64)
        if self.world == 1:
            return mine[None]
        rows = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(rows, mine)
        return torch.stack(rows)

    def broadcast(self, mine: T) -> T:
        """What the first worker brought, on all."""
        if self.world == 1:
            return mine
        box = [mine]
        dist.broadcast_object_list(box)
        return box[0]

    def all_gather_object(self, mine: Any) -> list[Any]:
        """An object from each worker, the same list on all."""
        if self.world == 1:
            return [mine]
        everyone: list[Any] = [None] * self.world
        dist.all_gather_object(everyone, mine)
        return everyone
