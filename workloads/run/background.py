"""Writes to storage in a background thread: the caller returns at once, and failed writes are retried."""

import threading
import time
from collections.abc import Callable

from heliostat.retry import FIRST_PAUSE, LONGEST_PAUSE, UNAVAILABLE, reason


class Background:
    """Calls ``act`` on request, once for several requests, until it succeeds.

    Its thread exists only while there are requests.

    Args:
        act: writes everything that waits; raises OSError or NotWritable while storage is unavailable, and is then retried.
        delayed: called with the error, in that thread, once each time that storage becomes unavailable.
        lazy: the least time between two calls, in seconds, unless a request is urgent.
    """

    def __init__(self, act: Callable[[], None], delayed: Callable[[str], None], lazy: float) -> None:
        self._act, self._delayed, self._lazy = act, delayed, lazy
        self._changed = threading.Condition()
        self._requests, self._served = 0, 0
        self._attempt = 0
        """The number of the last call of ``act``."""
        self._urgent = self._retry = self._away = self._slow = self._closed = False
        self._error: Exception | None = None
        self._bug: Exception | None = None
        self._not_before = 0.0
        self._running = False

    def request(self, urgent: bool = True) -> None:
        """Requests a call of ``act``, at once if it is urgent."""
        with self._changed:
            self._raise_bug()
            self._requests += 1
            self._urgent |= urgent
            self._wake()

    def settle(self, seconds: float) -> None:
        """Waits for the requests so far, for up to ``seconds``; not at all while storage is known to be unavailable or slow."""
        with self._changed:
            wanted = self._requests
            if not self._slow:
                self._slow = not self._changed.wait_for(lambda: self._served >= wanted or self._stuck, seconds)

    def finish(self, seconds: float | None = None) -> None:
        """Waits for the requests so far, with one more attempt if storage is unavailable: one that begins after this call.

        Raises:
            OSError, NotWritable: storage is still unavailable, or did not respond within ``seconds``.
        """
        with self._changed:
            wanted = self._requests
            if self._served >= wanted or self._closed:
                return
            self._urgent = self._retry = True
            before = self._attempt
            self._wake()
            self._changed.wait_for(
                lambda: self._served >= wanted or (self._error and self._attempt > before) or self._bug or self._closed,
                seconds,
            )
            self._raise_bug()
            if self._error:
                raise self._error
            if self._served < wanted and not self._closed:
                raise TimeoutError(f"storage did not respond for {seconds:g} s")

    def close(self) -> None:
        """Drops the requests that were not served."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def _stuck(self) -> bool:
        return self._away or self._bug is not None

    def _raise_bug(self) -> None:
        if self._bug:
            raise self._bug

    def _wake(self) -> None:
        if not self._running and not self._closed:
            self._running = True
            threading.Thread(target=self._run, name="journal", daemon=True).start()
        self._changed.notify_all()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        try:
            while (wanted := self._next()) is not None:
                try:
                    self._act()
                except UNAVAILABLE as error:
                    self._failed(error, pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                else:
                    self._succeeded(wanted)
                    pause = FIRST_PAUSE
        except Exception as error:  # of `act` or `delayed`, and not cured by a retry: raised by the next request
            with self._changed:
                self._bug = error
                self._changed.notify_all()

    def _next(self) -> int | None:
        """Waits until the next call is due; returns how many requests it serves, or None if there are none."""
        with self._changed:
            if self._served < self._requests:
                wait = self._not_before - time.monotonic()
                self._changed.wait_for(lambda: self._urgent or self._closed, max(0.0, wait))
            if self._closed or self._served == self._requests:
                self._running = False
                return None
            self._urgent = self._retry = False
            self._attempt += 1
            self._error = None
            return self._requests

    def _succeeded(self, served: int) -> None:
        with self._changed:
            self._served, self._error = served, None
            self._away = self._slow = False
            self._not_before = time.monotonic() + self._lazy
            self._changed.notify_all()

    def _failed(self, error: Exception, pause: float) -> None:
        with self._changed:
            known, self._away = self._away, True
        if not known:
            self._delayed(reason(error))  # outside the lock: it may append a record
        with self._changed:
            self._error = error
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._retry or self._closed, pause)
            self._urgent = True
