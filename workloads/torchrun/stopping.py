"""Whether a script is to save and exit after a step, the same on all ranks."""

import os
import sys
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from heliostat.workloads.torchrun import this_run
from heliostat.workloads.torchrun.hub import SAVED_AND_STOPPED

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

KEY = "heliostat/stops-after"


def stopping(step: int) -> bool:
    """Whether to save and exit after this step, because a node is draining, or the user stops the run.

    Called on all ranks after each step, it is true after the same step on all of them: rank 0 announces a step one ahead, and
    no rank is two ahead of another in a loop whose steps have a collective operation, as those of DistributedDataParallel. Once
    true, it stays true.

    Args:
        step: how many steps are done.
    """
    this_run.handle_signals()
    requested = this_run.State.stop_requested
    if this_run.world_size() == 1:
        return requested
    store = _store()
    if this_run.rank() == 0 and requested and not store.check([KEY]):
        store.set(KEY, str(step + 1))
    return store.check([KEY]) and step >= int(store.get(KEY))


@cache
def _store() -> "Store":
    """A client of the store that torchrun and ``heliostat torchrun`` serve for the process group."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in __all__
    from torch.distributed.distributed_c10d import PrefixStore

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store outlives its workers
    return PrefixStore(attempt, TCPStore(host, port, is_master=False))


def leave(what: str) -> NoReturn:
    """Exits when all ranks have saved, so that a drained or stopped script is started again from there.

    Args:
        what: has been saved.

    Raises:
        SystemExit: with code 143, as after `save`.
    """
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()
    this_run.say(f"{what} is saved, and the script exits, as requested")
    sys.exit(SAVED_AND_STOPPED)
