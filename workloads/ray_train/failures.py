"""What the end of a worker means: go on without blame, try again, or give up with the cause."""

import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field

from heliostat.errors import HeliostatError, JobFailed, UserError, short_traceback

SAME = {"error": 3, "silence": 2}
"""So often the same step may end the same way before it is the user's error."""
LONGEST_WAIT = 60.0
"""Seconds of the longest back-off."""
MISTAKES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, NotImplementedError, SyntaxError,
    TypeError, ValueError,
)  # fmt: skip
"""Errors of code and not of machines: trying again changes nothing."""


class Left(HeliostatError):
    """A worker has saved its work and left, to be started again with other nodes.

    Args:
        reason: why, such as ``drain`` or ``grow``.
        step: the step that is saved.
    """

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(reason, step)
        self.reason, self.step = reason, step


class WorkerFailed(JobFailed):
    """An exception in a worker, told where it happened.

    Args:
        text: the message for the user, with the end of the traceback.
        kind: ``mistake`` (of code), ``memory``, ``silence`` (of another worker), ``echo`` (of another's end) or ``error``.
        rank: whose.
        step: the last finished step.
        at: when, in seconds since the epoch.
    """

    def __init__(self, text: str, kind: str, rank: int, step: int, at: float) -> None:
        super().__init__(text, kind, rank, step, at)
        self.text, self.kind, self.rank, self.step, self.at = text, kind, rank, step, at

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Verdict:
    """What to do about an end.

    Args:
        again: whether to start the workers again.
        reason: what happened, in a line.
        charged: whether it counts against ``max_failures``.
        wait: seconds to wait before.
        error: with which to give up.
    """

    again: bool
    reason: str
    charged: bool = True
    wait: float = 0.0
    error: HeliostatError | None = None


@dataclass
class Failures:
    """The history of a run's failures, and the judgement on the next one.

    Args:
        most: the failures in a row, with no new checkpoint between them, that are survived.
    """

    most: int
    in_a_row: int = 0
    _saved: int = -1
    _same: dict[tuple[int, str], int] = field(default_factory=dict)

    def judge(self, ends: Mapping[int, BaseException], saved: int) -> Verdict:
        """What the ends of workers mean.

        Args:
            ends: what each worker that ended ended with, by rank.
            saved: the step of the last checkpoint.
        """
        rank, first = cause(ends)
        if isinstance(first, Left):
            return Verdict(True, first.reason, charged=False)
        if isinstance(first, UserError):
            return Verdict(False, first.what, error=first)
        reason, text = _told(rank, first)
        if isinstance(first, WorkerFailed) and first.kind in ("mistake", "memory"):
            return Verdict(False, reason, error=JobFailed(text))
        if saved > self._saved:
            self._saved, self.in_a_row = saved, 0
        self.in_a_row += 1
        step = first.step if isinstance(first, WorkerFailed) else saved
        key = (step, re.sub(r"0x[0-9a-f]+|\d+", "#", reason if not isinstance(first, WorkerFailed) else first.text))
        self._same[key] = self._same.get(key, 0) + 1
        if isinstance(first, WorkerFailed) and self._same[key] >= SAME.get(first.kind, self.most + 2):
            return Verdict(
                False, reason, error=JobFailed(f"{text}\n  the same step failed {self._same[key]} times in this way")
            )
        if self.in_a_row > self.most:
            more = (
                ""
                if self.most == 0
                else f"\n  {self.in_a_row} failures in a row without a new checkpoint (max_failures {self.most})"
            )
            return Verdict(False, reason, error=JobFailed(text + more))
        wait = 0.0 if self.in_a_row == 1 else min(LONGEST_WAIT, 2.0 ** (self.in_a_row - 2))
        return Verdict(True, reason, wait=wait)


def cause(ends: Mapping[int, BaseException]) -> tuple[int, BaseException]:
    """Whose end was first: the others only lose their connection to it."""

    def order(item: tuple[int, BaseException]) -> tuple[int, float, int]:
        rank, error = item
        if isinstance(error, UserError):
            return 0, 0.0, rank
        if isinstance(error, WorkerFailed):
            return {"echo": 4, "silence": 3}.get(error.kind, 1), error.at, rank
        return (5 if isinstance(error, Left) else 2), 0.0, rank

    return min(ends.items(), key=order)


def failed(error: Exception, rank: int, step: int, at: float, silent: list[int] | None = None) -> WorkerFailed:
    """An exception that a worker raised, as what is sent home: Ray would send it without its traceback.

    Args:
        error: the exception, as it was caught.
        rank: this worker's.
        step: the last finished step.
        at: now, in seconds since the epoch.
        silent: the ranks of which nothing was heard, if it was a wait that has ended.
    """
    kind = kind_of(error)
    text = short_traceback(error)
    if kind == "memory":
        text = f"{_last_line(error)}\n  {_peak()}; set micro_batch to a smaller divisor of global_batch / workers"
    if kind == "silence":
        missing = ", ".join(map(str, silent or [])) or "unknown"
        text = f"the workers waited for each other in vain after step {step}; silent rank: {missing}\n  {_last_line(error)}"
    return WorkerFailed(text, kind, rank, step, at)


def kind_of(error: BaseException) -> str:
    """The kind of an exception in a worker; see `WorkerFailed`."""
    import torch  # here, because the controller, which judges what workers tell, does without

    text = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return "memory"
    if isinstance(error, RuntimeError) and re.search(r"[Tt]imed out|[Tt]imeout", text):
        return "silence"
    if isinstance(error, RuntimeError | ConnectionError) and re.search(
        r"[Cc]onnection (closed|reset|refused)|[Bb]roken pipe", text
    ):
        return "echo"
    return "mistake" if isinstance(error, MISTAKES) else "error"


def _told(rank: int, error: BaseException) -> tuple[str, str]:
    """A line and a text about an end."""
    if isinstance(error, WorkerFailed):
        lines = error.text.splitlines()
        line = lines[0] if error.kind in ("memory", "silence") else lines[-1]
        if error.kind == "echo":
            line = f"lost its connection to another worker ({line})"
        return f"worker {error.rank}: {line}", f"worker {error.rank} failed after step {error.step}:\n  {error.text}"
    text = " ".join(str(error).split())
    for pattern, meaning in {
        r"NODE_OUT_OF_MEMORY|running low on memory": "was killed: its node ran out of memory; try a smaller micro_batch",
        r"because its node has died|node was terminated|NODE_DIED": "was lost with its node",
        r"actor is temporarily unavailable": "does not answer any more: it, its node or the network is gone",
        r"SIGKILL|SYSTEM_ERROR|connection error code 2": "was killed, by a signal or by the kernel for want of memory",
    }.items():
        if re.search(pattern, text):
            line = f"worker {rank} {meaning}"
            return line, line
    line = f"worker {rank} ended: {text[:300]}"
    return line, line


def _peak() -> str:
    import torch

    if torch.cuda.is_available():
        return f"the peak was {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of {torch.cuda.mem_get_info()[1] / 2**30:.1f}"
    import resource

    return f"the peak was {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"


def _last_line(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
