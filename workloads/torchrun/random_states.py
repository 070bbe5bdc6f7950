"""The states of a process's random number generators, as what ``torch.load(weights_only=True)`` reads."""

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

States = dict[str, Any]


def of_all_ranks() -> list[States]:
    """The states of each rank, by rank; to be called on all of them, each with its device set."""
    own = states()
    if not dist.is_initialized():
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found


def restore_own(found: list[States]) -> bool:
    """Restores this rank's states; False if they are those of another number of ranks."""
    size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    if len(found) != size:
        return False
    restore(found[rank])
    return True


def states() -> States:
    """Those of Python, NumPy, PyTorch on the CPU, and on the process's GPU if it has one."""
    in_numpy: Any = np.random.get_state(legacy=True)
    name, keys, *rest = in_numpy
    on_gpu = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"python": random.getstate(), "numpy": (name, keys.tolist(), *rest), "torch": torch.get_rng_state(), **on_gpu}


def restore(found: States) -> None:
    """Restores them; that of a GPU where there is one."""
    random.setstate(found["python"])
    name, keys, *rest = found["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(found["torch"].cpu())
    if "cuda" in found and torch.cuda.is_available():
        torch.cuda.set_rng_state(found["cuda"].cpu())
