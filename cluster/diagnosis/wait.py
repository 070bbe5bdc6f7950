"""Waits with a status line, which end with reason and fix when the awaited state cannot be reached."""

import time
from collections.abc import Callable, Iterator

from heliostat.cluster.diagnosis.crashes import Crashes, Seen, quoted
from heliostat.cluster.diagnosis.problem import Problem
from heliostat.cluster.diagnosis.problems import problems
from heliostat.cluster.diagnosis.snapshot import Snapshot, event_time, group_of, pod_ready, pod_state
from heliostat.cluster.errors import Unreachable
from heliostat.cluster.kube.conditions import observed
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile
from heliostat.errors import NotComing

POLL = 0.5
READY = "ready"
"""What is waited for when it is there."""
SILENT_SECONDS = 30
"""Seconds without a response of the API server until a wait fails."""


class Watchdog:
    """Checks snapshots: returns a status line, and ends the wait when a problem does not go away by itself.

    Args:
        profile: the desired cluster.
        log: the last lines of a pod's log.
        clock: a monotonic clock in seconds.
        counts: whether a problem in a snapshot is one of what is waited for; others are shown, and end no wait.
    """

    def __init__(
        self,
        profile: Profile,
        log: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
        counts: Callable[[Problem, Snapshot], bool] = lambda problem, snapshot: True,
    ) -> None:
        self.profile, self.clock, self.counts = profile, clock, counts
        self.first_seen: dict[str, float] = {}
        self.crashes = Crashes(log)
        self._queued = False

    def look(self, snapshot: Snapshot) -> str:
        """Check a snapshot; returns a status line.

        Raises:
            NotComing: the state cannot be reached; with the reason and the fix.
        """
        now, self._queued = self.clock(), queued(snapshot, self.profile)
        found = list(problems(snapshot, self.profile))
        keys = {problem.key for problem in found}
        self.first_seen = {key: at for key, at in self.first_seen.items() if key in keys}
        pods = frozenset(pod["metadata"]["name"] for pod in snapshot.pods)
        for problem in found:
            since = now - self.first_seen.setdefault(problem.key, now)
            crash = self.crashes.note(problem, pods, now) if problem.crash else None
            if (since >= problem.patience or (crash and crash.final)) and self.counts(problem, snapshot):
                raise NotComing(problem.what + self._more(problem, crash), problem.fix)
        if found:
            return self._line(found[0], pods, now)
        line, before = progress(snapshot, self.profile), self.crashes.last(now)
        return f"{line} (before: {before})" if before and line != READY else line

    def in_queue(self) -> bool:
        """Whether the last snapshot was in a queue, where the wait has no time limit."""
        return self._queued

    def _line(self, problem: Problem, pods: frozenset[str], now: float) -> str:
        last = self.crashes.note(problem, pods, now).last_line[:200] if problem.crash else ""
        return ": ".join(filter(None, (problem.what.replace("\n", " "), last)))

    def _more(self, problem: Problem, crash: Seen | None) -> str:
        times = f", {crash.number} crashes in a row" if crash and crash.number > 1 else ""
        return times + quoted((crash.log if crash else "") or self.crashes.tail(problem.pod))


def progress(snapshot: Snapshot, profile: Profile) -> str:
    """The status line without a problem."""
    if snapshot.events is None:  # they are listed only when something is not ready
        return f"{_awaited(snapshot, profile)} (without the right to list events, problems may stay undetected)"
    return _awaited(snapshot, profile)


def _awaited(snapshot: Snapshot, profile: Profile) -> str:
    if queued(snapshot, profile):
        return f"waits in the queue {profile.queue}{_why_queued(snapshot.events or [])}"
    if snapshot.cluster is None:
        return "waits for the operator to create the cluster"
    if snapshot.cluster["spec"].get("suspend"):
        return "suspended"
    if not snapshot.head:
        return "waits for the head's pod" if observed(snapshot.cluster) else "waits for the operator"
    if not pod_ready(snapshot.head):
        return f"waits for the head: {pod_state(snapshot.head)}"
    waiting = [f"{group_of(pod)}: {pod_state(pod)}" for pod in snapshot.workers() if not pod_ready(pod)]
    return f"waits for workers: {', '.join(waiting[:4])}" if waiting else READY


def queued(snapshot: Snapshot, profile: Profile) -> bool:
    """Whether a cluster or a job is queued: Kueue keeps it suspended until it is admitted."""
    waiting = snapshot.job or snapshot.cluster
    return bool(profile.queue and waiting and waiting["spec"].get("suspend"))


def _why_queued(events: list[Document]) -> str:
    """The last event of Kueue (0.15) about the Workload, which it creates for each queued object."""
    about = [event for event in events if event["involvedObject"].get("kind") == "Workload"]
    last = max(about, key=event_time, default=None)
    return f": {last['message'][:200]}" if last and last["reason"] == "Pending" else ""


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
    answered = time.monotonic()
    said = name
    while True:
        try:
            if until():
                return
            said = look()
            answered = time.monotonic()
        except Unreachable as error:  # a single missing response is not a reason to give up
            if time.monotonic() - answered > SILENT_SECONDS:
                raise
            said = error.what
        yield said
        if queued():
            deadline = time.monotonic() + seconds
        if time.monotonic() > deadline:
            raise NotComing(f"{name} is not ready after {seconds:.0f} s: {said}", "heliostat doctor; heliostat status")
        time.sleep(POLL)
