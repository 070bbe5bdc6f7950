"""What has become of an attempt: from the exit codes of the ranks, and Ray's own error."""

import signal
from dataclasses import dataclass

from ray.train.v2.api.exceptions import WorkerGroupError

from heliostat.errors import HeliostatError, JobFailed, StorageUnavailable, UserError
from heliostat.workloads.torchrun.config import Script
from heliostat.workloads.torchrun.hub import Record
from heliostat.workloads.torchrun.output import Output


class ScriptFailed(HeliostatError):
    """The script itself failed; its output has the cause."""


class Drained(HeliostatError):
    """The script saved its state and exited, because a node is draining."""


@dataclass(frozen=True)
class Outcome:
    """The result of an attempt; an ``uncharged`` error does not count as a restart."""

    error: HeliostatError | None = None
    uncharged: bool = False


def _first(ended: list[Record]) -> tuple[int, int] | None:
    """The rank that failed first, and its exit code."""
    return next(((rank, value) for _, rank, kind, value in ended if kind == "exit" and value), None)


def outcome_of(script: Script, ended: list[Record], error: BaseException | None, output: Output) -> Outcome:
    """The result of an attempt.

    Args:
        script: which has run.
        ended: the exits of its ranks, in the order of time.
        error: Ray's own.
        output: of the ranks, which has their exceptions.

    Raises:
        BaseException: Ray's own, if it concerns no worker.
    """
    if any(kind == "left" for _, _, kind, _ in ended):
        return Outcome(Drained("a node is draining, and the script has saved its state"), uncharged=True)
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    users = [failure for failure in failures.values() if isinstance(failure, UserError | StorageUnavailable)]
    if first := _first(ended):
        failed = _failure(script, *first, output)
        for user in users:  # what it has written cannot be kept
            failed.add_note(str(user))
        return Outcome(failed)
    if error is None:
        return Outcome()
    if not failures:
        raise error
    if users:
        return Outcome(users[0])
    rank, lost = min(failures.items())
    preempted = any(getattr(failure, "preempted", False) for failure in failures.values())
    return Outcome(JobFailed(f"the worker of rank {rank} was lost: {short(lost)}"), uncharged=preempted)


def _failure(script: Script, rank: int, code: int, output: Output) -> ScriptFailed:
    """The error of the first rank that failed; after a signal the exit code is a shell's, 128 plus its number."""
    who = f"rank {rank} of {script.script}" if script.workers > 1 else script.script
    cause = output.cause(rank, aborted=code == -signal.SIGABRT)
    if code > 0:
        error = ScriptFailed(f"{who} exited with code {code}{cause}")
        error.exit_code = code
        return error
    memory = " (out of memory?)" if code == -signal.SIGKILL else ""
    error = ScriptFailed(f"{who} was killed by {_signal_name(-code)}{memory}{cause}")
    error.exit_code = 128 - code
    return error


def _signal_name(number: int) -> str:
    known = number in set(signal.Signals)
    return signal.Signals(number).name if known else f"signal {number}"  # Python has names for two of the real-time signals


def short(error: BaseException) -> str:
    """The first line of an error's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
