"""LightGBM's two collectives, by torch.distributed: what its data-parallel trees exchange are histograms and splits.

The signatures are those of ``ReduceScatterFunction`` and ``AllgatherFunction`` in LightGBM's ``meta.h`` (4.7).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, c_int, c_int32, c_uint8, c_void_p, cast
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from heliostat.workloads.trees.library import api, check, lightgbm

SIZES = POINTER(c_int32)
REDUCE = CFUNCTYPE(None, c_void_p, c_void_p, c_int, c_int32)
REDUCE_SCATTER = CFUNCTYPE(None, c_void_p, c_int32, c_int, SIZES, SIZES, c_int, c_void_p, c_int32, POINTER(REDUCE))
ALLGATHER = CFUNCTYPE(None, c_void_p, c_int32, SIZES, SIZES, c_int, c_void_p, c_int32)


class Network:
    """The other workers, for LightGBM in this thread; the default process group must be on CPUs.

    A collective that fails must not let an exception out into LightGBM, nor leave memory unset: it is kept and raised at the
    end of `connected`, and until then the other workers pass for copies of this one.
    """

    def __init__(self, rank: int, world: int) -> None:
        self._rank, self._world = rank, world
        self._error: BaseException | None = None
        # Kept as long as LightGBM may call them.
        self._functions = (REDUCE_SCATTER(self._reduce_scatter), ALLGATHER(self._allgather))

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Connects LightGBM in this thread, on all workers; with one worker, does nothing.

        Raises:
            RuntimeError: another worker is gone, or did not take part in time; see torch.distributed.
        """
        if self._world == 1:
            yield
            return
        functions = [cast(function, c_void_p) for function in self._functions]
        check(api.LGBM_NetworkInitWithFunctions(self._world, self._rank, *functions))
        try:
            yield
        except lightgbm.basic.LightGBMError:
            if self._error is None:
                raise
        finally:
            check(api.LGBM_NetworkFree())
        if self._error is not None:
            raise self._error

    def _exchange(self, output: Tensor, given: Tensor, received: list[int], sent: list[int]) -> bool:
        """Sends a part to each worker and receives one from each; returns whether that worked."""
        if self._error is None:
            try:
                dist.all_to_all_single(output, given, received, sent)
            except BaseException as error:  # raised by `connected`
                self._error = error
        return self._error is None

    def _reduce_scatter(
        self, given: int, size: int, item: int, starts: Any, lengths: Any, count: int, output: int, _: int, reduce: Any
    ) -> None:
        """Reduces block number ``rank`` of all workers into the output, in the order of their ranks."""
        sizes = lengths[:count]
        mine = sizes[self._rank]
        parts = torch.empty(mine * count, dtype=torch.uint8)
        if not self._exchange(parts, _bytes(given, size), [mine] * count, sizes):
            parts = _bytes(given, size)[starts[self._rank] :]
        elif mine:
            for worker in range(1, count):
                reduce[0](parts.data_ptr() + worker * mine, parts.data_ptr(), item, mine)
        _bytes(output, mine).copy_(parts[:mine])

    def _allgather(self, given: int, size: int, _starts: Any, lengths: Any, count: int, output: int, _: int) -> None:
        """Concatenates the blocks of all workers in the output; the input may be a part of it."""
        sizes = lengths[:count]
        mine = _bytes(given, size).repeat(count)
        if not self._exchange(_bytes(output, sum(sizes)), mine, sizes, [size] * count):
            _bytes(output, min(sum(sizes), len(mine))).copy_(mine[: sum(sizes)])


def _bytes(address: int, size: int) -> Tensor:
    """Memory of LightGBM's as a tensor."""
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer((c_uint8 * size).from_address(address), dtype=torch.uint8)
