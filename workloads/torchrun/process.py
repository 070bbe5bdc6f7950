"""A script's process: reports what it prints and its exit at once, and sends it the signals that orders ask for."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from heliostat.interrupts import handles_sigterm
from heliostat.workloads.torchrun.hub import SAVED_AND_STOPPED, Event

CHILD = Path(__file__).with_name("child.py")
POLL = 0.5
"""Seconds between two polls for an order."""
OUTPUT_TIMEOUT = 5.0
"""Seconds for which a script's children may keep its output open after it has exited."""
EVENTS = 256
"""Events that a rank holds, above which the script blocks when it prints."""

SIGNALS: Mapping[str, Sequence[tuple[float, signal.Signals]]] = {
    "notice": ((0.0, signal.SIGTERM),),
    "interrupt": ((0.0, signal.SIGINT), (30.0, signal.SIGTERM), (45.0, signal.SIGKILL)),
    "stop": ((0.0, signal.SIGTERM), (30.0, signal.SIGKILL)),
    "failed": ((0.0, signal.SIGTERM), (30.0, signal.SIGKILL)),
    "hurry": ((0.0, signal.SIGTERM), (5.0, signal.SIGKILL)),
}
"""The signals of each order, with seconds; 30 s between the request and SIGKILL, as torchrun has (torch 2.15)."""

Send = Callable[[list[Event]], str]
"""Takes events, and returns the current order."""


def start(arguments: list[str], folder: Path, environment: Mapping[str, str], stdin: int) -> "subprocess.Popen[bytes]":
    """Starts ``python`` with arguments, which the end of this thread ends; ``stdin`` is a file descriptor."""
    command = [sys.executable, "-IS", str(CHILD), str(os.getpid()), sys.executable, "-u", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kills the script and all processes that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


class ScriptProcess:
    """Follows a script that `start` has started.

    Args:
        process: of the script.
        rank: the script's.
        send: called with what happens; the order that it returns is carried out.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", rank: int, send: Send) -> None:
        self._process, self._rank, self._send = process, rank, send
        self._events: queue.Queue[Event] = queue.Queue(EVENTS)
        self._open = {"stdout", "stderr"}
        self._code: int | None = None
        self._order, self._due = "", list[tuple[float, signal.Signals]]()
        self._drain_sent = False
        self._last = 0.0

    def run(self) -> int:
        """Runs until the script exits, and its output has been read; its exit code, negative for a signal."""
        for name, pipe in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            assert pipe
            self._thread(self._read, name, pipe)
        self._thread(lambda: self._put("exit", self._process.wait()))
        ended = float("inf")
        while (self._code is None or self._open) and time.monotonic() < ended + OUTPUT_TIMEOUT:
            events = self._gather()
            if self._code is not None:
                ended = min(ended, time.monotonic())
            self._apply(self._send(events))
        assert self._code is not None
        return self._code

    @property
    def undisturbed(self) -> bool:
        """Whether no signal was sent to the script."""
        return self._order == ""

    def fail(self, error: Exception) -> None:
        """Lets `run` raise an error."""
        self._put("error", error)

    def _gather(self) -> list[Event]:
        """The new events; waits up to `POLL` seconds for the first."""
        events: list[Event] = []
        wait = POLL
        while len(events) < EVENTS:
            try:
                at, kind, value = self._events.get(timeout=wait)
            except queue.Empty:
                break
            if kind == "error":
                raise value
            if value is None:
                self._open.discard(kind)
            else:
                self._last = max(self._last, at)  # the clock may be set back
                events.append((self._last, *(self._exit(value) if kind == "exit" else (kind, value))))
            wait = 0.02 if self._open or self._code is None else 0
        return events

    def _exit(self, code: int) -> tuple[str, int | None]:
        """The event of an exit; after a drain no failure: rank 0 has saved, and the others just exit."""
        self._code = code
        if not self._drain_sent or code not in (0, SAVED_AND_STOPPED, -signal.SIGTERM):
            return "exit", code
        return ("exit", 0) if self._rank else ("left", None)

    def _apply(self, order: str) -> None:
        now = time.monotonic()
        if order != self._order:
            self._order = order
            if order in ("notice", "cancel"):
                handled = handles_sigterm(self._process.pid)
                # Without a handler a notice would only end it earlier, and a job's end would give it no time to save.
                order = {"notice": "notice" if handled else "", "cancel": "stop" if handled else "interrupt"}[order]
                self._drain_sent = order == "notice"
            self._due = sorted(self._due + [(now + seconds, number) for seconds, number in SIGNALS.get(order, ())])
        while self._due and self._due[0][0] <= now:
            _, number = self._due.pop(0)
            if number == signal.SIGKILL:
                kill(self._process)
            elif self._code is None:
                # The script alone: it stops its children, such as those of a DataLoader, itself.
                self._process.send_signal(number)

    def _read(self, name: str, pipe: IO[bytes]) -> None:
        while piece := os.read(pipe.fileno(), 1 << 16):
            self._put(name, piece)
        self._put(name, None)

    def _put(self, kind: str, value: Any) -> None:
        self._events.put((time.time(), kind, value))

    def _thread(self, target: Any, *args: Any) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()
