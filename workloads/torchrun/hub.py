"""Where the workers of one command and the command itself meet: an actor, so that it is behind Ray's own authentication."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

Line = tuple[str, str]
"""``stdout`` or ``stderr``, and a line without its end."""
Record = tuple[int, str, Any]
"""A rank with ``stdout`` or ``stderr`` and a line, with ``exit`` and the code, or with ``left`` and None."""

MOST = 20_000
"""RunWriter that wait to be taken before the scripts have to wait with printing."""


class Hub:
    """Brings lines and exit codes to the command, and orders to the workers.

    The orders are ``notice`` (a node goes: save and leave, if you can), ``stop`` (somebody wants the end), ``hurry`` (rank 0
    has saved and ended) and ``failed`` (a rank has).
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._records: deque[Record] = deque()
        self._attempt, self._world, self._order = 0, 0, ""
        self._joined: dict[int, dict[str, Any]] = {}
        self._ended: set[int] = set()

    async def attempt(self, number: int, world: int) -> None:
        """Begin anew: what the workers of an attempt before still say is not heard any more."""
        async with self._changed:
            self._attempt, self._world, self._order = number, world, ""
            self._joined, self._ended = {}, set()
            self._changed.notify_all()

    async def join(self, attempt: int, rank: int, about: dict[str, Any]) -> list[dict[str, Any]]:
        """Wait for all workers; what each has said about itself, by rank."""
        async with self._changed:
            if attempt == self._attempt:
                self._joined[rank] = about
            self._changed.notify_all()
            await self._until(attempt, lambda: len(self._joined) == self._world)
            return [self._joined[rank] for rank in sorted(self._joined)]

    async def tell(self, attempt: int, rank: int, lines: list[Line]) -> str:
        """Bring lines, in the order in which they were printed; returns the order that stands."""
        async with self._changed:
            if attempt != self._attempt:
                return "failed"
            self._records.extend((rank, stream, text) for stream, text in lines)
            self._changed.notify_all()
            await self._until(attempt, lambda: len(self._records) < MOST)
            return self._order

    async def ended(self, attempt: int, rank: int, code: int | None) -> None:
        """Bring the exit code, None if it has saved and left, and wait until all have ended: then nobody is cut off."""
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
        """Ask all workers for something, unless more is asked for already."""
        async with self._changed:
            if self._order in ("", "notice"):
                self._order = order

    async def joined(self) -> list[dict[str, Any]]:
        """What the workers that have come so far have said about themselves."""
        return list(self._joined.values())

    async def take(self, seconds: float) -> list[Record]:
        """What has come since the last call, at once if there is something, else after ``seconds``."""
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
