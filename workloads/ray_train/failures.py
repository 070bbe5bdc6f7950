"""Decides what follows when workers fail: restart without a charge, retry, or give up with the cause."""

import pickle
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from heliostat.errors import HeliostatError, JobFailed, UserError, short_traceback

MAX_REPEATS = {"error": 3, "timeout": 2}
"""How often the same step may fail in the same way, by kind, before the run fails."""
MAX_BACKOFF = 60.0
"""Seconds, the longest pause before a retry."""
MISTAKES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, NotImplementedError, SyntaxError,
    TypeError, ValueError, pickle.UnpicklingError,
    FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError, SystemExit,
)  # fmt: skip
"""Errors of code and of what it reads, not of machines: a retry does not help."""
BETWEEN_WORKERS = ("torch.distributed", "torch.nn.parallel", "heliostat")
"""Packages whose code waits for other workers. The rest of torch passes their errors on, such as its backward pass; what any
other module raises, the user's or a library's, is no failure of another worker, whatever it says."""


class RestartRequested(HeliostatError):
    """A worker saved a checkpoint and exited, to be restarted on other nodes.

    Args:
        reason: why, such as ``drain`` or ``grow``.
        step: the step of the checkpoint.
    """

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(reason, step)
        self.reason, self.step = reason, step


class WorkerFailed(JobFailed):
    """An exception in a worker, with the place where it was raised.

    Args:
        text: the message for the user, with the last frames of the traceback.
        kind: ``mistake`` (in code), ``memory``, ``timeout`` (of a collective), ``peer_lost`` (another one failed) or ``error``.
        rank: the worker's.
        step: the last finished step.
        at: the time, in seconds since the epoch.
    """

    def __init__(self, text: str, kind: str, rank: int, step: int, at: float) -> None:
        super().__init__(text, kind, rank, step, at)
        self.text, self.kind, self.rank, self.step, self.at = text, kind, rank, step, at

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Decision:
    """What to do after a failure.

    Args:
        retry: whether to start the workers again.
        reason: what happened, in one line.
        cause: its kind, in a word: that of a `WorkerFailed`, the reason of a `RestartRequested`, ``input``, or of a worker that
            died ``node_memory``, ``node_lost``, ``no_answer``, ``killed`` or ``unknown``.
        charged: whether it counts against ``max_failures``.
        wait: seconds to wait before the restart.
        error: what to raise when there is no restart.
    """

    retry: bool
    reason: str
    cause: str
    charged: bool = True
    wait: float = 0.0
    error: HeliostatError | None = None


@dataclass
class Failures:
    """Counts a run's failures, and decides what follows each.

    Args:
        most: how many failures in a row, with no new checkpoint between them, are retried.
    """

    most: int
    in_a_row: int = 0
    _saved: int = -1
    _same: dict[tuple[int, str], int] = field(default_factory=dict)

    def decide(self, ends: Mapping[int, BaseException], saved: int) -> Decision:
        """Decides whether to restart the workers.

        Args:
            ends: the error of each worker that failed, by rank.
            saved: the step of the last checkpoint.
        """
        rank, first = first_failure(ends)
        if isinstance(first, RestartRequested):
            return Decision(True, first.reason, first.reason, charged=False)
        if isinstance(first, UserError):
            return Decision(False, first.what, "input", error=first)
        reason, text, cause = _summary(rank, first)
        if isinstance(first, WorkerFailed) and first.kind in ("mistake", "memory"):
            return Decision(False, reason, cause, error=JobFailed(text))
        if saved > self._saved:
            self._saved, self.in_a_row = saved, 0
        self.in_a_row += 1
        step = first.step if isinstance(first, WorkerFailed) else saved
        key = (step, re.sub(r"0x[0-9a-f]+|\d+", "#", reason if not isinstance(first, WorkerFailed) else first.text))
        self._same[key] = self._same.get(key, 0) + 1
        if isinstance(first, WorkerFailed) and self._same[key] >= MAX_REPEATS.get(first.kind, self.most + 2):
            return Decision(
                False, reason, cause, error=JobFailed(f"{text}\n  the same step failed {self._same[key]} times with this error")
            )
        if self.in_a_row > self.most:
            more = (
                ""
                if self.most == 0
                else f"\n  {self.in_a_row} failures in a row without a new checkpoint (max_failures {self.most})"
            )
            return Decision(False, reason, cause, error=JobFailed(text + more))
        wait = 0.0 if self.in_a_row == 1 else min(MAX_BACKOFF, 2.0 ** (self.in_a_row - 2))
        return Decision(True, reason, cause, wait=wait)


def first_failure(ends: Mapping[int, BaseException]) -> tuple[int, BaseException]:
    """Finds the rank that failed first, and its error; the others only lost their connection to it."""

    def order(item: tuple[int, BaseException]) -> tuple[int, float, int]:
        rank, error = item
        if isinstance(error, UserError):
            return 0, 0.0, rank
        if isinstance(error, WorkerFailed):
            return {"peer_lost": 4, "timeout": 3}.get(error.kind, 1), error.at, rank
        return (5 if isinstance(error, RestartRequested) else 2), 0.0, rank

    return min(ends.items(), key=order)


def worker_failed(error: BaseException, rank: int, step: int, at: float, missing: list[int] | None = None) -> WorkerFailed:
    """Wraps an exception of a worker for the driver: Ray would send it without its traceback.

    Args:
        error: the exception as it was caught.
        rank: this worker's.
        step: the last finished step.
        at: the time, in seconds since the epoch.
        missing: the ranks that did not reach the collective, if it timed out.
    """
    kind = kind_of(error)
    text = short_traceback(error)
    if kind == "memory":
        text = f"{_last_line(error)}\n  {_peak()}; set micro_batch to a smaller divisor of global_batch / workers"
    if kind == "timeout":
        ranks = ", ".join(map(str, missing or [])) or "unknown"
        text = f"a collective timed out after step {step}; ranks that did not reach it: {ranks}\n  {_last_line(error)}"
    return WorkerFailed(text, kind, rank, step, at)


def kind_of(error: BaseException) -> str:
    """Classifies an exception of a worker; see `WorkerFailed`."""
    import torch  # here, so that the controller, which imports this module, does not load torch

    text = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return "memory"
    # Gloo and the store of the process group raise RuntimeErrors, which only their texts tell apart.
    if isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and _is_between_workers(error)):
        if re.search(r"[Tt]imed out|[Tt]imeout", text):
            return "timeout"
        if re.search(r"[Cc]onnection (closed|reset|refused)|[Bb]roken pipe", text):
            return "peer_lost"
    return "mistake" if isinstance(error, MISTAKES) else "error"


def _is_between_workers(error: BaseException) -> bool:
    """Whether an exception was raised where workers wait for one another, by the module of the code that raised it."""
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        module = frame.f_globals.get("__name__", "")
        if _is_in(module, BETWEEN_WORKERS):
            return True
        if not _is_in(module, ("torch",)):
            return False
    return False


def _is_in(module: str, packages: Sequence[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _summary(rank: int, error: BaseException) -> tuple[str, str, str]:
    """Describes a failure in one line, in full, and in a word."""
    if isinstance(error, WorkerFailed):
        line = error.text.splitlines()[0] if error.kind in ("memory", "timeout") else _first_line(error.text)
        if error.kind == "peer_lost":
            line = f"lost its connection to another worker ({line})"
        return (
            f"worker {error.rank}: {line}",
            f"worker {error.rank} failed after step {error.step}:\n  {error.text}",
            error.kind,
        )
    text = " ".join(str(error).split())
    for cause, pattern, meaning in (
        (
            "node_memory", r"NODE_OUT_OF_MEMORY|running low on memory",
            "was killed: its node ran out of memory; try a smaller micro_batch",
        ),
        ("node_lost", r"because its node has died|node was terminated|NODE_DIED", "was lost with its node"),
        (
            "no_answer", r"actor is temporarily unavailable",
            "does not respond: the worker, its node or the network failed",
        ),
        (
            "killed", r"SIGKILL|SYSTEM_ERROR|connection error code 2",
            "was killed, by a signal or by the kernel's OOM killer",
        ),
    ):  # fmt: skip
        if re.search(pattern, text):
            line = f"worker {rank} {meaning}"
            return line, line, cause
    line = f"worker {rank} failed: {text[:300]}"
    return line, line, "unknown"


def _first_line(text: str) -> str:
    """The line of a `short_traceback` that names the exception; more of its message, or notes, may follow."""
    lines = text.splitlines()
    return next((line for line in lines if line.strip() and not line.startswith((" ", 'File "'))), lines[-1])


def _peak() -> str:
    import torch

    if torch.cuda.is_available():
        return f"the peak was {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of {torch.cuda.mem_get_info()[1] / 2**30:.1f}"
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return f"the peak was {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB"


def _last_line(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
