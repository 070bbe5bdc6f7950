"""The message hub between a command and its workers: an actor, so that Ray's authentication protects it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from signal import SIGTERM
from typing import Any

Event = tuple[float, str, Any]
"""When it happened (seconds since the epoch), and ``stdout`` or ``stderr`` with bytes, ``exit`` with the code, ``left`` with
None (the script has saved on a drain, and exited), or ``kept`` with a folder and the sizes of the files in it."""
Record = tuple[float, int, str, Any]
"""An event with its rank after the time."""

SAVED_AND_STOPPED = 128 + SIGTERM
"""The exit code of a script that saved its state after it was asked to stop."""
MAX_BYTES = 16 << 20
"""Bytes of output in the hub above which the scripts block when they print."""


class Hub:
    """Passes output and exit codes to the command, and orders to the workers.

    The orders are ``notice`` (a node is draining: save and exit, if the script can), ``interrupt``, ``stop`` and ``cancel``
    (requested by the user: Ctrl-C, SIGTERM, and either of them for a job), ``hurry`` (rank 0 has saved and exited) and
    ``failed`` (a rank has).
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._records: deque[Record] = deque()
        self._size = 0
        self._attempt, self._world, self._order = 0, 0, ""
        self._joined: dict[int, dict[str, Any]] = {}
        self._ended: set[int] = set()

    async def attempt(self, number: int, world: int) -> None:
        """Starts an attempt; messages of earlier attempts are ignored from now on."""
        async with self._changed:
            self._attempt, self._world, self._order = number, world, ""
            self._joined, self._ended = {}, set()
            self._changed.notify_all()

    async def join(self, attempt: int, rank: int, info: dict[str, Any]) -> list[dict[str, Any]]:
        """Waits for all workers; returns the info of each, by rank."""
        async with self._changed:
            if attempt == self._attempt:
                self._joined[rank] = info
            self._changed.notify_all()
            await self._until(attempt, lambda: len(self._joined) == self._world)
            return [self._joined[rank] for rank in sorted(self._joined)]

    async def send(self, attempt: int, rank: int, events: list[Event]) -> str:
        """Takes events, in the order in which they happened; returns the current order."""
        async with self._changed:
            if attempt != self._attempt:
                return "failed"
            for at, kind, value in events:
                self._records.append((at, rank, kind, value))
                self._size += len(value) if isinstance(value, bytes) else 0
                if kind in ("exit", "left"):
                    self._order = self._after(rank, kind, value)
            self._changed.notify_all()
            await self._until(attempt, lambda: self._size < MAX_BYTES)
            return self._order

    def _after(self, rank: int, kind: str, code: Any) -> str:
        """The order after a script has exited."""
        asked = self._order in ("interrupt", "stop", "cancel")
        if kind == "left" or (asked and rank == 0 and code == SAVED_AND_STOPPED):
            return "hurry"
        return "failed" if code and self._order in ("", "notice") else self._order

    async def ended(self, attempt: int, rank: int) -> None:
        """Waits until all scripts have exited and all of their output is here."""
        async with self._changed:
            if attempt != self._attempt:
                return
            self._ended.add(rank)
            self._changed.notify_all()
            await self._until(attempt, lambda: len(self._ended) == self._world)

    async def order(self, order: str) -> None:
        """Sends an order to all workers, unless a stronger one was sent."""
        async with self._changed:
            if self._order in ("", "notice"):
                self._order = order

    async def clock(self) -> float:
        """The time here, in seconds since the epoch."""
        return time.time()

    async def joined(self) -> list[dict[str, Any]]:
        """The info of the workers that have joined so far."""
        return list(self._joined.values())

    async def take(self, seconds: float) -> list[Record]:
        """The records since the last call; waits up to ``seconds`` for the first."""
        async with self._changed:
            if not self._records:
                try:
                    await asyncio.wait_for(self._changed.wait_for(lambda: bool(self._records)), seconds)
                except TimeoutError:
                    return []
            taken = list(self._records)
            self._records.clear()
            self._size = 0
            self._changed.notify_all()
            return taken

    async def _until(self, attempt: int, true: Callable[[], bool]) -> None:
        await self._changed.wait_for(lambda: attempt != self._attempt or true())
