"""Why a run waits, is slow or has ended, from its folder alone: also after the cluster that it ran on is gone."""

import re
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

from heliostat.cause import Cause
from heliostat.folder import Folder
from heliostat.wording import agreeing, counted
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.chunks import Record
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.lease import read_lease
from heliostat.workloads.run.record import EVENTS, METRICS, SLOW, SLOW_OVER, Result

SILENT = 5.0
"""How many times its usual interval a run may take until the next record without being slow."""
DATA = 0.2
"""The share of the time without data from which on it is a cause."""
LEAST_SILENCE = 60.0
"""Seconds; the same for runs that record often."""


def causes_of(folder: Folder, result: Result, now: float | None = None) -> list[Cause]:
    """Why a run, or a script, is where it is, the cause that decides first before the others.

    Args:
        folder: of the run, or a copy of its records.
        result: its result so far.
        now: the time, in seconds since the epoch; by default that of this machine.
    """
    attempts, events, metrics = (read_journal(folder, name) for name in (ATTEMPTS, EVENTS, METRICS))
    now = time.time() if now is None else now
    if result.state == "running":
        found = [*_slow(events, metrics, attempts[-1]), *_silent(events, metrics, attempts, now)] if _runs(attempts) else []
        return [*_phase(attempts, events, metrics), *found, *_earlier(attempts)]
    return [_end(folder, result, attempts, events, metrics), *_earlier(attempts)]


def _runs(attempts: Sequence[Record]) -> bool:
    return bool(attempts) and attempts[-1]["event"] == "running"


def _phase(attempts: Sequence[Record], events: Sequence[Record], metrics: Sequence[Record]) -> Iterator[Cause]:
    """What a driven run does, or waits for."""
    last: Record = attempts[-1] if attempts else {"event": ""}
    since = last.get("time")
    if last["event"] == "waiting" and "room" in last:
        what = (
            f"waits for nodes: it needs room for at least {counted(last['workers'], 'worker')}, and there is room for "
            f"{last['room']}"
        )
        yield Cause(what, "heliostat why --on PROFILE says what limits the groups", since, "it starts once they fit")
    elif last["event"] == "waiting":
        yield Cause(f"its workers could not be started: {last.get('reason', '')}", "", since, "it tries again by itself")
    elif last["event"] == "starting":
        yield Cause(
            f"{counted(last['workers'], 'worker')} {agreeing(last['workers'], 'start')}",
            "",
            since,
            "they load Python, the data and the model",
        )
    elif last["event"] in ("failed", "left"):
        pause = f"after a pause of {last['wait']:.0f} s" if last.get("wait") else "at once"
        yield Cause(f"its workers are started again: {last.get('reason', '')}", "", since, f"it resumes {pause}")
    elif last["event"] == "running":
        yield _progress(last, events, metrics)
    else:
        yield Cause("its driver has started, and no worker yet", "", since)


def _progress(running: Record, events: Sequence[Record], metrics: Sequence[Record]) -> Cause:
    began = running["time"]
    events, metrics = ([record for record in records if record["time"] >= began] for records in (events, metrics))
    if not metrics and not any(record["event"] == "first_step" for record in events):
        return Cause("its workers run, and have not finished their first step", "", began)
    recorded = [record for record in [*events, *metrics] if "step" in record]
    newest = max(recorded, key=lambda record: record["time"], default=None)
    at = f" at step {newest['step']}" if newest else ""
    return Cause(f"it trains with {counted(running.get('workers', 0), 'worker')}{at}", "", began)


def _slow(events: Sequence[Record], metrics: Sequence[Record], running: Record) -> Iterator[Cause]:
    """The worker that the others wait for now, and whether the run waits for data."""
    marks = [event for event in events if event["event"] in (SLOW, SLOW_OVER) and event["time"] >= running["time"]]
    if marks and marks[-1]["event"] == SLOW:
        yield Cause(marks[-1]["told"], _slow_fix(marks[-1]), marks[-1]["time"], _WAIT)
    trained = [record for record in metrics if record["kind"] == "train" and record["time"] >= running["time"]]
    train = [record for record in trained if "data_wait" in record]
    if train and train[-1]["data_wait"] >= DATA:
        share = train[-1]["data_wait"]
        fix = "heliostat dataset bench measures the data alone; nearer or faster storage helps"
        yield Cause(f"its workers wait for data {share:.0%} of the time", fix, train[-1]["time"])


def slow_in(output: Sequence[str]) -> Iterator[Cause]:
    """The worker that the others wait for, as the last lines of a run's output say it."""
    found = [match for line in output if (match := re.search(r"(worker \d+) on (\S+) is (slow: .*|not slow any more)", line))]
    if found and found[-1][3] != "not slow any more":
        told = found[-1][0]
        yield Cause(told, _slow_fix({"data": "it waits for data" in told, "node": found[-1][2]}), then=_WAIT)


_WAIT = "the others wait for it in every step"


def _slow_fix(event: Record) -> str:
    if event["data"]:
        return "see why this node reads more slowly than the others: its disk, its network, its cache"
    return f"see what else runs on {event['node']} (GPU clocks, heat, other processes), or take it out: kubectl cordon"


def _silent(events: Sequence[Record], metrics: Sequence[Record], attempts: Sequence[Record], now: float) -> Iterator[Cause]:
    """A run that has recorded nothing for much longer than it usually takes."""
    times = sorted(record["time"] for record in [*events, *metrics] if record["time"] >= attempts[-1]["time"])
    gaps = sorted(after - before for before, after in pairwise(times))
    if not gaps:
        return
    usual, silence = gaps[len(gaps) // 2], now - times[-1]
    if silence > max(LEAST_SILENCE, SILENT * usual):
        yield Cause(
            f"it has recorded nothing for {silence:.0f} s; usually it takes {usual:.1f} s",
            "see what its workers print (heliostat logs): one may hang, in its own code or in storage",
            times[-1],
            "a collective that hangs ends the attempt after hang_minutes",
        )


def _end(
    folder: Folder, result: Result, attempts: Sequence[Record], events: Sequence[Record], metrics: Sequence[Record]
) -> Cause:
    """What has ended a run."""
    last = max((record["time"] for record in [*attempts, *events, *metrics]), default=None)
    again = "the same command resumes it from its last checkpoint"
    if result.state == "finished":
        why = f": {result.message}" if result.message else ""
        return Cause(f"it has finished at step {result.step}{why}", since=last)
    if result.state == "stopped":
        return Cause(f"it was stopped at step {result.step}, by Ctrl-C, heliostat stop or a signal", again, last)
    if result.state == "diverged":
        event = next((e for e in reversed(events) if e["event"] == "diverged"), {})
        what = (
            result.message or f"{event.get('what', 'the loss')} became NaN or infinite at step {event.get('at', result.step)}"
        )
        return Cause(what, "a smaller optimizer.lr, or gradient clipping; the same config does so again", last)
    if result.state == "failed":
        failed = next((a for a in reversed(attempts) if a["event"] == "failed"), {})
        tried = f", after {failed['failures']} failures in a row" if failed.get("failures", 0) > 1 else ""
        return Cause(f"it failed at step {result.step}{tried}: {failed.get('reason', result.message)}", again, last)
    if result.state == "lost":
        return Cause(result.message or "another driver has taken it over", "follow that one", last)
    return _interrupted(folder, result, last, again)


def _interrupted(folder: Folder, result: Result, last: float | None, again: str) -> Cause:
    lease = read_lease(folder)
    driver = f" (process {lease['pid']} of {lease['user']} on {lease['host']})" if lease else ""
    what = f"its driver{driver} has ended at step {result.step} without a word: it was killed, or its machine is gone"
    return Cause(what, again, lease["time"] if lease else last)


def _earlier(attempts: Sequence[Record]) -> Iterator[Cause]:
    """The failures that were retried, the last one first."""
    retried = [a for a in attempts if a["event"] in ("failed", "left") and a.get("again", True)]
    # The last one is what the run does now.
    for each in [a for a in reversed(retried) if a is not attempts[-1]][:3]:
        yield Cause(f"before, its workers were started again: {each.get('reason', '')}", "", each["time"])
