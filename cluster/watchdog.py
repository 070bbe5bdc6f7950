"""Waits that end: a line for what is waited for, and the reason and the cure when it will not come."""

import time
from collections.abc import Callable

from cluster.faults import Problem, problems
from cluster.kuberay import observed
from cluster.profile import Profile
from cluster.snapshot import Snapshot, group_of, pod_ready, pod_state
from heliostat.errors import Explained

CRASHES_SECONDS = 600
"""Two pods of a group that crash within that time are no chance."""


class Watchdog:
    """Looks at snapshots, tells what is waited for, and ends the wait when a problem will not go away by itself.

    Args:
        profile: what should be there.
        log: the last lines of a pod's log.
        clock: seconds, for tests.
    """

    def __init__(self, profile: Profile, log: Callable[[str], str], clock: Callable[[], float] = time.monotonic) -> None:
        self.profile, self.log, self.clock = profile, log, clock
        self.first_seen: dict[str, float] = {}
        self.crashed: dict[str, dict[str, float]] = {}

    def look(self, snapshot: Snapshot) -> str:
        """What is waited for, in one line.

        Raises:
            Explained: it will not come, with the reason and the fix.
        """
        now = self.clock()
        found = list(problems(snapshot, self.profile))
        keys = {problem.key for problem in found}
        self.first_seen = {key: at for key, at in self.first_seen.items() if key in keys}
        for problem in found:
            since = now - self.first_seen.setdefault(problem.key, now)
            # A crashed worker is replaced, and work goes on; when the next one crashes too, it is the group.
            crashed = self.crashed.setdefault(problem.key, {})
            if problem.pod:
                crashed.setdefault(problem.pod, now)
            if since >= problem.patience or sum(now - at < CRASHES_SECONDS for at in crashed.values()) > 1:
                raise Explained(problem.what + self._tail(problem), problem.fix)
        return found[0].what.replace("\n", " ") if found else progress(snapshot, self.profile)

    def _tail(self, problem: Problem) -> str:
        text = self.log(problem.pod) if problem.pod else ""
        return "".join(f"\n  | {line}" for line in text.strip().splitlines()[-12:])


def progress(snapshot: Snapshot, profile: Profile) -> str:
    """What is waited for when nothing is wrong."""
    if snapshot.cluster is None:
        return "waits for the operator to make the cluster"
    if snapshot.cluster["spec"].get("suspend"):
        return "suspended" if not profile.queue else f"waits in the queue {profile.queue}"
    if not snapshot.head:
        unseen = " (without the right to list events it stays unseen why it may not come)" if snapshot.events is None else ""
        return ("waits for the head's pod" if observed(snapshot.cluster) else "waits for the operator") + unseen
    if not pod_ready(snapshot.head):
        return f"waits for the head: {pod_state(snapshot.head)}"
    waiting = [f"{group_of(pod)}: {pod_state(pod)}" for pod in snapshot.workers() if not pod_ready(pod)]
    return f"waits for workers: {', '.join(waiting[:4])}" if waiting else "ready"
