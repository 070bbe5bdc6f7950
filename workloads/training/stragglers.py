"""Finds the worker that the others wait for.

All workers take as long for a step, because they average their gradients in it. What differs is the time before that: a worker
waits for its batch and computes, without the others, until its last backward pass begins. The slowest of them decides how long
a step takes.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WINDOW = 5.0
"""Seconds of steps that are judged together."""
TIMES, SHARE = 1.5, 0.2
"""A worker is slow if it takes so many times as long as the median of the others, and costs such a share of a step."""


class Stopwatch:
    """Measures what this worker computes by itself, without waiting for the device.

    Args:
        device: of the worker.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._began = 0.0
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> None:
        """Begin a measurement."""
        if self._cuda:
            pair = _event(), _event()
            pair[0].record()
            self._events.append(pair)
        else:
            self._began = time.perf_counter()

    def stop(self) -> None:
        """End the measurement that was begun last."""
        if self._cuda:
            self._events[-1][1].record()
        else:
            self._seconds += time.perf_counter() - self._began

    def read(self) -> float:
        """The seconds since the last call; the device must have finished what was measured."""
        for began, ended in self._events:
            self._seconds += began.elapsed_time(ended) / 1000
        seconds, self._seconds = self._seconds, 0.0
        self._events.clear()
        return seconds


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # of torch


@dataclass(frozen=True)
class Slow:
    """A worker that the others wait for; times are those of a step, in seconds."""

    rank: int
    seconds: float
    """Until its last backward pass begins."""
    others: float
    """The same of the median of the others."""
    share: float
    """Of the time of a step that the others wait for it."""
    data: bool
    """Whether it waits for data; else it computes for longer."""


class Stragglers:
    """Judges the times of all workers, window by window."""

    def __init__(self, world: int) -> None:
        self._own, self._waited = np.zeros(world), np.zeros(world)
        self._steps, self._seconds = 0, 0.0
        self._before: int | None = None

    def add(self, own: Tensor, waited: Tensor, steps: int, seconds: float) -> Iterator[Slow | None]:
        """Counts some steps; yields at the end of a window whether a worker is slow, which it was in the window before as well.

        Args:
            own: what each worker computed by itself (world), in seconds; all 0 where that is not known.
            waited: what each waited for data (world).
            steps: how many.
            seconds: what they took.
        """
        self._own += own.numpy()
        self._waited += waited.numpy()
        self._steps += steps
        self._seconds += seconds
        if self._seconds < WINDOW or not self._steps:
            return
        found = self._judged() if self._own.any() and len(self._own) > 1 else None
        again = found is not None and found.rank == self._before
        self._before = found.rank if found else None
        self._own[:] = self._waited[:] = 0.0
        self._steps, self._seconds = 0, 0.0
        if again or found is None:
            yield found

    def _judged(self) -> Slow | None:
        own = (self._own + self._waited) / self._steps
        rank = int(own.argmax())
        others = float(np.median(np.delete(own, rank)))
        lost = float(own[rank]) - others
        share = lost * self._steps / self._seconds
        if own[rank] < TIMES * others or share < SHARE:
            return None
        more_data = float(self._waited[rank] - np.median(np.delete(self._waited, rank))) / self._steps
        return Slow(rank, float(own[rank]), others, min(share, 1.0), more_data > lost / 2)


def slow_text(slow: Slow, host: str) -> str:
    """A slow worker in a line."""
    why = "it waits for data" if slow.data else "it computes for longer"
    return (
        f"worker {slow.rank} on {host} is slow: it takes {1000 * slow.seconds:.1f} ms a step until the gradients are averaged, "
        f"{slow.seconds / max(slow.others, 1e-9):.1f} times as long as the others ({why}), who wait for it "
        f"{slow.share:.0%} of the time"
    )
