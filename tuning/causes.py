"""Why a sweep waits or has ended, from its folder alone."""

from collections import Counter
from collections.abc import Iterator

from heliostat.cause import Cause
from heliostat.tuning.trials import Trials
from heliostat.wording import agreeing, counted


def causes_of(trials: Trials, state: str, wanted: int | None) -> list[Cause]:
    """Why a sweep is where it is, the cause that decides first before the others.

    Args:
        trials: its trials.
        state: running, finished or interrupted.
        wanted: how many trials it is to have; None if only time limits it.
    """
    return [*_state(trials, state, wanted), *_failures(trials)]


def _state(trials: Trials, state: str, wanted: int | None) -> Iterator[Cause]:
    counts = Counter(trial.state for trial in trials.all)
    shown = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    done = sum(trial.done for trial in trials.all)
    ended = f"{done} of {counted(wanted, 'trial')}" if wanted else counted(done, "trial")
    of = f"{ended} {agreeing(done, 'are')} done ({shown or 'none yet'})"
    since, last = trials.sessions[-1] if trials.sessions else (None, None)
    if state == "finished":
        yield Cause(f"it has finished: {of}", since=last)
    elif state == "interrupted":
        what = f"its driver has ended before the sweep: it was stopped or killed, or its machine is gone; {of}"
        yield Cause(what, "the same command continues it", last)
    elif counts["running"]:
        yield Cause(f"it runs {counts['running']} of {counted(trials.slots, 'trial')} at once; {of}", since=since)
    else:
        fix = "heliostat why --on PROFILE says what limits the groups"
        yield Cause(f"no trial runs, of {trials.slots} at once: they wait for nodes, or start; {of}", fix, last)


def _failures(trials: Trials) -> Iterator[Cause]:
    """The reasons of trials that failed, the most frequent first."""
    failed = [trial for trial in trials.all if trial.message and trial.state in ("failed", "diverged", "waiting", "running")]
    reasons = Counter(trial.message.strip().splitlines()[-1][:300] for trial in failed)
    for reason, count in reasons.most_common(3):
        first = next(trial for trial in failed if reason in trial.message)
        yield Cause(f"{counted(count, 'trial')} failed, first {first.name}: {reason}", "heliostat sweep show NAME")
