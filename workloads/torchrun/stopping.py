"""Whether a script is to save and exit after a step, and in which order its ranks do."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from heliostat.workloads.torchrun import this_run
from heliostat.workloads.torchrun.hub import SAVED_AND_STOPPED

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

KEY, LEFT = "heliostat/stops-after", "heliostat/left"
STORE_TIMEOUT = timedelta(seconds=30)


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


def leaves() -> bool:
    """Whether this rank exits at this `save`, because it is asked to.

    The requests reach the ranks at different moments, and one that has gone is an error in the next collective operation of
    those that it has not reached. So rank 0, which saves, exits as soon as it is asked; the others continue until it has.
    """
    requested = this_run.State.stop_requested
    if this_run.rank() == 0 or not requested or not _together():
        return requested
    if not isinstance(sys.excepthook, _QuietIfLeft):
        sys.excepthook = _QuietIfLeft(sys.excepthook)
    return _rank_zero_has_left(unknown=True)


def left() -> None:
    """Rank 0 has saved and exits now: what the other ranks fail with from now on is no error of theirs."""
    if _together():
        _store().set(LEFT, "")


def _together() -> bool:
    """Whether the ranks have collective operations."""
    from torch import distributed

    return this_run.world_size() > 1 and distributed.is_available() and distributed.is_initialized()


def _rank_zero_has_left(unknown: bool) -> bool:
    """``unknown`` if the store has gone, which without an agent of torchrun is in rank 0."""
    try:
        return bool(_store().check([LEFT]))
    except RuntimeError:
        return unknown


@dataclass(frozen=True)
class _QuietIfLeft:
    """Ends a rank whose collective operation fails because rank 0 has saved and exited as if it had been at `save`."""

    otherwise: Callable[[type[BaseException], BaseException, TracebackType | None], object]

    def __call__(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, Exception) and _rank_zero_has_left(unknown=False):
            raise SystemExit(SAVED_AND_STOPPED)
        self.otherwise(kind, error, traceback)


@cache
def _store() -> "Store":
    """A client of the store that torchrun and ``heliostat torchrun`` serve for the process group."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in __all__
    from torch.distributed.distributed_c10d import PrefixStore

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store outlives its workers
    return PrefixStore(attempt, TCPStore(host, port, is_master=False, timeout=STORE_TIMEOUT))


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
