"""Why something waits, has ended, is idle or is slow: what `heliostat why` shows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """One cause, with what to change."""

    what: str
    fix: str = ""
    """What to change, as an instruction; empty if nothing needs to be."""
    since: float | None = None
    """In seconds since the epoch; None if it is not known."""
    then: str = ""
    """What happens next without a change, and when."""
    group: str = ""
    """The worker group, ``head`` for the head; empty if it is of none."""
    job: str = ""
    """The job; empty if it is of none."""
    known: bool = True
    """False: it says what could not be found out."""
