"""A problem of a pod, and what all diagnoses of pods share."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from heliostat.cause import Cause
from heliostat.cluster.diagnosis.refusals import fix_of_refusal
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile


@dataclass(frozen=True)
class Crash:
    """A container with Ray that has ended by itself."""

    pod: str
    restarts: int
    """How often it had been started again in that pod before this end."""
    why: str
    """Its exit code, in words."""


@dataclass(frozen=True)
class Problem:
    """What something waits for; it counts as final when it has existed for ``patience`` seconds, never if that is infinite."""

    key: str
    what: str
    fix: str
    patience: float = 0.0
    pod: str = ""
    """The pod whose log explains it."""
    crash: Crash | None = None
    """A crash is followed by another pod or container, so that the wait ends only when that crashes, too."""
    group: str = ""
    """The worker group of its pod; ``head`` for the head's, empty for the whole cluster's."""
    since: float | None = None
    """In seconds since the epoch; None if it is not known."""
    then: str = ""
    """What happens next without a change, and when."""
    job: str = ""
    """The job that waits; empty if it is not one job's."""

    @property
    def fault(self) -> bool:
        """Whether it is more than a wait that ends by itself."""
        return self.crash is not None or math.isfinite(self.patience)

    @property
    def cause(self) -> Cause:
        """As `heliostat why` shows it."""
        return Cause(self.what, self.fix, self.since, self.then, self.group, self.job)


def at(seconds: float) -> str:
    """A time, in seconds since the epoch, for a message."""
    return f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S} UTC"


def missing_fix(message: str) -> str:
    """What to do about an object that a kubelet's message names."""
    if found := re.search(r'(secret|configmap) "([^"]+)" not found', message):
        return f"create the {found[1]} {found[2]}, or remove it from the profile"
    if found := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) \S*?([^/\s]+)$", message):
        return f"add the key {found[1]} to the {found[2]} {found[3]}, or correct it in the profile"
    return fix_of_refusal(message)


def about(pod: Document, events: list[Document]) -> list[Document]:
    """The events of a pod."""
    return [event for event in events if event["involvedObject"].get("uid") == pod["metadata"]["uid"]]


SECONDS_TO_START = 120.0
"""How long the head's pod may take, for which a profile has no ``start_seconds``."""


def start_seconds(profile: Profile, group: str) -> float:
    """The seconds that a pod of a group, or the head's, may take to start."""
    return next((g.start_seconds for g in profile.groups if g.name == group), SECONDS_TO_START)
