"""Crashes of Ray's containers during a wait: the first does not end it, because a new pod comes within seconds."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from heliostat.cluster.diagnosis.problem import Problem
from heliostat.cluster.errors import KubernetesError

SECONDS = 600
"""The longest time between two crashes in a row."""
MOST = 3
"""Crashes in a row that end the wait, also if each has another reason."""
TAIL = 12
TOO_SLOW = "The current node timed out during startup"
"""What Ray says where its programs did not start within the time that it gives them."""
TOO_SLOW_FIX = (
    "give the head or the group more cpu, or its node less other work: Ray 2.60 gives a node's agent 15 s and the node 30 s to "
    "start, and has no setting for that"
)


@dataclass(frozen=True)
class Seen:
    """A crash as it was first seen."""

    at: float
    why: str
    """Its exit code, in words."""
    log: str
    """The last lines of its log; empty if it was unreadable."""
    pods: frozenset[str]
    """The pods at that time, itself included."""
    number: int = 1
    """Its position in its row."""
    repeats: bool = False
    """Whether an earlier one in its row had the same reason."""

    @property
    def final(self) -> bool:
        """Whether the next pod is expected to crash, too."""
        return self.repeats or self.number >= MOST

    @property
    def too_slow(self) -> bool:
        """Whether its node was too busy: the next pod may find it less so."""
        return TOO_SLOW in self.log

    @property
    def last_line(self) -> str:
        lines = self.log.strip().splitlines()
        return lines[-1].strip() if lines else ""

    def same_reason(self, other: "Seen") -> bool:
        """Whether exit code and last line are equal, numbers such as times ignored; an unknown line equals any."""
        lines = {re.sub(r"0x[0-9a-f]+|\d+", "#", line) for line in (self.last_line, other.last_line) if line}
        return self.why == other.why and len(lines) < 2


class Crashes:
    """The crashes during a wait, by group.

    Workers that crash together, such as those that wait for the same head, count as one crash in a row: only a pod that was
    created later, or a restarted container, counts as the next.

    Args:
        log: returns the last lines of a pod's log.
    """

    def __init__(self, log: Callable[[str], str]) -> None:
        self._log = log
        self._groups: dict[str, dict[tuple[str, int], Seen]] = {}

    def note(self, problem: Problem, pods: frozenset[str], now: float) -> Seen:
        """Record a visible crash; returns it as it was first seen.

        Args:
            problem: the problem that shows it.
            pods: the names of all pods.
            now: from a monotonic clock.
        """
        assert problem.crash
        group = self._groups.setdefault(problem.key, {})
        identity = (problem.crash.pod, problem.crash.restarts)
        if identity not in group:
            group[identity] = self._judged(problem, group, pods, now)
        return group[identity]

    def last(self, now: float) -> str:
        """The newest crash within `SECONDS`, in a line; empty if there is none."""
        found = [(seen.at, pod, seen) for group in self._groups.values() for (pod, _), seen in group.items()]
        at, pod, seen = max(found, key=lambda each: each[0], default=(-SECONDS + now, "", None))
        return f"{pod} ended: {shown(seen)}" if seen and now - at < SECONDS else ""

    def tail(self, pod: str) -> str:
        """The last lines of a pod's log; empty if it is unreadable, for example because the pod was deleted."""
        try:
            return self._log(pod) if pod else ""
        except KubernetesError:
            return ""

    def _judged(self, problem: Problem, group: dict[tuple[str, int], Seen], pods: frozenset[str], now: float) -> Seen:
        assert problem.crash
        pod, why = problem.crash.pod, problem.crash.why
        row = [seen for (name, _), seen in group.items() if now - seen.at < SECONDS and (name == pod or pod not in seen.pods)]
        crash = Seen(now, why, self.tail(problem.pod), pods)
        number = 1 + max((seen.number for seen in row), default=0)
        return replace(crash, number=number, repeats=not crash.too_slow and any(map(crash.same_reason, row)))


def shown(crash: Seen) -> str:
    """The reason, with the last line of the log."""
    return ": ".join(filter(None, (crash.why, crash.last_line[:200])))


def quoted(log: str) -> str:
    """The last lines of a log as the end of a message; empty if there are none."""
    lines = log.strip().splitlines()[-TAIL:]
    return ", its last lines:" + "".join(f"\n  | {line}" for line in lines) if lines else ""
