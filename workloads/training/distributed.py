"""The process group of a run's workers, and the collectives that they use."""

import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

from heliostat.errors import UserError
from heliostat.workloads.training import rendezvous

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

T = TypeVar("T")
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd")
"""The devices of NVIDIA's and AMD's drivers."""


def join(rank: int, world: int, node: str, alone: bool, broadcast: Callable[[Any], Any], seconds: float) -> None:
    """Forms the process group of all workers.

    Args:
        rank, world: this worker's rank and the world size.
        node: the address of this worker's node.
        alone: whether all workers are on one machine: then nothing listens on an address that other machines reach.
        broadcast: returns on all workers what rank 0 passes.
        seconds: the timeout, here and of each collective.

    Raises:
        RuntimeError: some workers did not join in time.
    """
    timeout = timedelta(seconds=seconds)
    if not torch.cuda.is_available():
        _compute_in_batches()
    rendezvous.choose_interface(os.environ, node, alone)
    address = rendezvous.address_for(node, alone)
    listener = rendezvous.listen(address) if rank == 0 else None
    host, port = broadcast((address, listener.getsockname()[1]) if listener else None)
    store = rendezvous.serve(listener, world, timeout) if listener else TCPStore(host, port, world, timeout=timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timeout)


def _compute_in_batches() -> None:
    """Gives this thread, and those that it starts from now on, Linux's policy for computing: a wake-up interrupts no other.

    Under the default policy each piece of a gradient that arrives lets gloo's thread interrupt the backward pass of a worker on
    the same core: with two workers on two cores it then needs four times the CPU time, and training is a quarter slower. The
    worker's share of the CPU, its weight, stays as it is.
    """
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
        # A sandbox may refuse the call; the training is then slower, and otherwise the same.
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def check_gpu() -> None:
    """Checks that torch can use the GPU that this worker holds; logical GPUs, of clusters for tests, are no GPUs.

    Raises:
        UserError: it cannot, and would train on the CPU.
    """
    given = os.environ.get("NVIDIA_VISIBLE_DEVICES", "void") not in ("", "none", "void")
    real = given or any(Path(device).exists() for device in GPU_DEVICES)
    if torch.cuda.is_available() or not real or "RAY_FAKE_CLUSTER" in os.environ:
        return
    build = torch.version.cuda or torch.version.hip
    cause = f"finds none (it was built for {build})" if build else "was built without GPU support"
    raise UserError(
        f"this worker holds a GPU of {socket.gethostname()}, but torch {torch.__version__} {cause}",
        "install a torch that fits the GPU's driver (in the image, where the run is on a cluster), "
        "or set resources.gpu to 0 to train on CPUs",
    )


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether a tensor is one worker's part of another; the module of these, which loads for half a second, may be absent."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This worker's part of a tensor if that is sharded, else the tensor; not a copy."""
    return tensor.to_local() if is_sharded(tensor) else tensor


@dataclass(frozen=True)
class Ranks:
    """A worker's rank, world size and device, and the collectives of small values.

    These use the default process group, gloo; gradients use NCCL on CUDA.
    """

    rank: int
    world: int
    device: torch.device
    gradients: dist.ProcessGroup | None = None

    @classmethod
    def of_this_process(cls, cuda: bool = True) -> "Ranks":
        """From torch.distributed if it is initialized, otherwise a world of one; on CUDA if that is allowed and available."""
        on_gpu = cuda and torch.cuda.is_available()
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        if not dist.is_initialized():
            return cls(0, 1, device)
        group = dist.new_group(backend="nccl") if device.type == "cuda" else None
        return cls(dist.get_rank(), dist.get_world_size(), device, group if isinstance(group, dist.ProcessGroup) else None)

    def share(self, total: int) -> tuple[int, int]:
        """This worker's contiguous part of ``total`` items, as (first, end); rank 0 has at least one of them."""
        return -(-total * self.rank // self.world), -(-total * (self.rank + 1) // self.world)

    def all_gather(self, row: list[float]) -> Tensor:
        """Gathers a row of numbers from each worker: (world, len(row)), float64, on the CPU, the same on all."""
        mine = torch.tensor(row, dtype=torch.float64)
        if self.world == 1:
            return mine[None]
        rows = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(rows, mine)
        return torch.stack(rows)

    def broadcast(self, mine: T) -> T:
        """Returns on all workers what rank 0 passes."""
        if self.world == 1:
            return mine
        box = [mine]
        dist.broadcast_object_list(box)
        return box[0]

    def gather_object(self, mine: T) -> list[T]:
        """Gathers an object from each worker on rank 0, by rank; the other workers get an empty list."""
        if self.world == 1:
            return [mine]
        everyone: list[Any] = [None] * self.world if self.rank == 0 else []
        dist.gather_object(mine, everyone or None)
        return everyone

    def all_gather_object(self, mine: Any) -> list[Any]:
        """Gathers an object from each worker, by rank, the same list on all."""
        if self.world == 1:
            return [mine]
        everyone: list[Any] = [None] * self.world
        dist.all_gather_object(everyone, mine)
        return everyone
