"""The message hub between a command and its workers: an actor, so that Ray's authentication protects it."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

Line = tuple[str, str]
"""``stdout`` or ``stderr``, and a line without its newline."""
Record = tuple[int, str, Any]
"""A rank, and ``stdout`` or ``stderr`` with a line, ``exit`` with the code, or ``left`` with None."""

MAX_LINES = 20_000
"""Lines in the hub above which the scripts block when they print."""


class Hub:
    """Passes lines and exit codes to the command, and orders to the workers.

    The orders are ``notice`` (a node is draining: save and exit, if the script can), ``stop`` (requested by the user),
    ``hurry`` (rank 0 has saved and exited) and ``failed`` (a rank has).
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._records: deque[Record] = deque()
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

    async def send(self, attempt: int, rank: int, lines: list[Line]) -> str:
        """Takes lines, in the order in which they were printed; returns the current order."""
        async with self._changed:
            if attempt != self._attempt:
                return "failed"
            self._records.extend((rank, stream, text) for stream, text in lines)
            self._changed.notify_all()
            await self._until(attempt, lambda: len(self._records) < MAX_LINES)
            return self._order

    async def ended(self, attempt: int, rank: int, code: int | None) -> None:
        """Takes the exit code, None if the script saved on a drain; waits until all have exited, so that no output is lost."""
        async with self._changed:
            if attempt != self._attempt:
                return
            self._records.append((rank, "left", None) if code is None else (rank, "exit", code))
            if code is None or (self._order == "stop" and rank == 0):
                self._order = "hurry"
            elif code != 0 and self._order in ("", "notice"):
                self._order = "failed"
            self._ended.add(rank)
            self._changed.notify_all()
            await self._until(attempt, lambda: len(self._ended) == self._world)

    async def order(self, order: str) -> None:
        """Sends an order to all workers, unless a stronger one was sent."""
        async with self._changed:
            if self._order in ("", "notice"):
                self._order = order

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
            self._changed.notify_all()
            return taken

    async def _until(self, attempt: int, true: Callable[[], bool]) -> None:
        await self._changed.wait_for(lambda: attempt != self._attempt or true())
