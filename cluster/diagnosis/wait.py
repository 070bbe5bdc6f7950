"""Waits with a status line, which end with reason and fix when the awaited state cannot be reached."""

import time
from collections.abc import Callable, Iterator, Sequence

from heliostat.cluster.diagnosis.crashes import TOO_SLOW_FIX, Crashes, Seen, quoted
from heliostat.cluster.diagnosis.problem import Problem
from heliostat.cluster.diagnosis.problems import problems, queued, unseen
from heliostat.cluster.diagnosis.snapshot import Snapshot
from heliostat.cluster.errors import Unreachable
from heliostat.cluster.jobs.demand import RayState
from heliostat.cluster.profile import Profile
from heliostat.cluster.retries import Silence
from heliostat.errors import NotComing

POLL = 0.5
READY = "ready"
"""What is waited for when it is there."""
SILENT_SECONDS = 30
"""Seconds in which it asks without a response of the API server until a wait fails."""


class Watchdog:
    """Checks snapshots: returns a status line, and ends the wait when a problem does not go away by itself.

    Args:
        profile: the desired cluster.
        log: the last lines of a pod's log.
        clock: a monotonic clock in seconds.
        counts: whether a problem in a snapshot is one of what is waited for; others are shown, and end no wait.
        job: the job that waits; empty if the cluster is waited for.
        ray: returns what Ray knows, for the causes of a job.
    """

    def __init__(
        self,
        profile: Profile,
        log: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
        counts: Callable[[Problem, Snapshot], bool] = lambda problem, snapshot: True,
        job: str = "",
        ray: Callable[[], RayState | None] = lambda: None,
    ) -> None:
        self.profile, self.clock, self.counts, self.job, self.ray = profile, clock, counts, job, ray
        self.first_seen: dict[str, float] = {}
        self.crashes = Crashes(log)
        self._queued = False

    def look(self, snapshot: Snapshot) -> str:
        """Check a snapshot; returns a status line.

        Raises:
            NotComing: the state cannot be reached; with the reason and the fix.
        """
        now, self._queued = self.clock(), queued(snapshot, self.profile)
        found = [each for each in problems(snapshot, self.profile, self.ray()) if each.job in ("", self.job)]
        keys = {problem.key for problem in found}
        self.first_seen = {key: at for key, at in self.first_seen.items() if key in keys}
        pods = frozenset(pod["metadata"]["name"] for pod in snapshot.pods)
        for problem in found:
            since = now - self.first_seen.setdefault(problem.key, now)
            crash = self.crashes.note(problem, pods, now) if problem.crash else None
            if (since >= problem.patience or (crash and crash.final)) and self.counts(problem, snapshot):
                fix = TOO_SLOW_FIX if crash and crash.too_slow else problem.fix
                raise NotComing(problem.what + self._more(problem, crash), fix)
        return self._line(found, snapshot, pods, now)

    def in_queue(self) -> bool:
        """Whether the last snapshot was in a queue, where the wait has no time limit."""
        return self._queued

    def _line(self, found: list[Problem], snapshot: Snapshot, pods: frozenset[str], now: float) -> str:
        first = next(iter(found), None)
        line = status_line(found, snapshot)
        if first and first.crash:
            last = self.crashes.note(first, pods, now).last_line[:200]
            return ": ".join(filter(None, (line, last)))
        before = self.crashes.last(now) if first and not first.fault else ""
        return f"{line} (before: {before})" if before else line

    def _more(self, problem: Problem, crash: Seen | None) -> str:
        times = f", {crash.number} crashes in a row" if crash and crash.number > 1 else ""
        return times + quoted((crash.log if crash else "") or self.crashes.tail(problem.pod))


def one_line(found: Sequence[Problem]) -> str:
    """Causes in a line: the first, and how many more there are; empty without one."""
    texts = [*dict.fromkeys(problem.what.replace("\n", " ") for problem in found)]
    more = f" (and {len(texts) - 1} more: heliostat why)" if len(texts) > 1 else ""
    return texts[0] + more if texts else ""


def status_line(found: Sequence[Problem], snapshot: Snapshot) -> str:
    """The cause that decides first, in a line, with what could not be looked at; `READY` without one."""
    line, remarks = one_line(found) or READY, "; ".join(unseen(snapshot))
    return f"{line} ({remarks})" if remarks else line


def poll(
    look: Callable[[], str],
    until: Callable[[], bool],
    seconds: float,
    name: str,
    queued: Callable[[], bool] = lambda: False,
) -> Iterator[str]:
    """Poll until a condition holds; yields status lines.

    Args:
        look: returns a status line, and raises `NotComing`.
        until: the condition.
        seconds: the timeout, without the time in a queue.
        name: of the awaited object.
        queued: whether it is in a queue.

    Raises:
        NotComing: the condition cannot be reached, or was not in time.
    """
    deadline = time.monotonic() + seconds
    silence = Silence()
    said = name
    while True:
        asked = time.monotonic()
        try:
            if until():
                return
            said = look()
            silence.ends()
        except Unreachable as error:  # a single missing response is not a reason to give up
            if silence.seconds(asked, time.monotonic()) > SILENT_SECONDS:
                raise
            said = error.what
        yield said
        if queued():
            deadline = time.monotonic() + seconds
        if time.monotonic() > deadline:
            raise NotComing(f"{name} is not ready after {seconds:.0f} s: {said}", "heliostat doctor; heliostat status")
        time.sleep(POLL)
