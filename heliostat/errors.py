"""The errors that users see, each kind with its exit code."""

import difflib
import os
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

INSTALLED = (
    *(os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    os.path.join(os.path.dirname(os.path.abspath(__file__)), ""),
)
"""Where the code of others is: Python's, of installed packages and of Heliostat."""


class HeliostatError(Exception):
    """An error that is shown as one message, without a traceback."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it (IPython calls this): the message, as the commands print it."""
        return [f"{type(self).__name__}: {self}", *getattr(self, "__notes__", [])]


class WithFix(HeliostatError):
    """An error with a known fix.

    Args:
        what: what is wrong.
        fix: what to do about it, as an instruction.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.what, self.fix = what, fix

    def __str__(self) -> str:
        return f"{self.what}\n  fix: {self.fix}"


class UserError(WithFix):
    """The user's input is wrong; ``what`` names the field and the value: ``optimizer.lr is -1, but must be above 0``."""

    exit_code = 2
    parts: Sequence["UserError"] = ()
    """The errors that this one lists, see `combined`."""


class NotWritable(UserError):
    """Storage cannot be used: no space, no permission, no folder. It may be temporary, so work in progress retries."""


class NoSpace(NotWritable):
    """The disk or the quota of a storage is full."""


class NotComing(WithFix):
    """A failure outside of Heliostat; ``what`` says what was waited for or tried, and why it cannot succeed."""


class JobFailed(HeliostatError):
    """The work itself failed; the message says where, and what can be tried."""


class Diverged(JobFailed):
    """The loss, the gradient or a weight became NaN or infinite: the same config does so again.

    Args:
        what: at which step, and what is saved.
        advice: what to change in the config.
        step: the step with that value.
        epoch: its pass over the dataset.
    """

    def __init__(self, what: str, advice: str, step: int, epoch: int) -> None:
        super().__init__(what, advice, step, epoch)
        self.what, self.advice, self.step, self.epoch = what, advice, step, epoch

    def __str__(self) -> str:
        return f"{self.what}\n  {self.advice}"


class Stopped(HeliostatError):
    """The user stopped it (Ctrl-C, SIGTERM); the message says how to resume."""

    exit_code = 130


class ContactLost(HeliostatError):
    """The job does not answer, but may still run; the message says how to follow it again."""

    exit_code = 75


class NoAnswer(WithFix):
    """A server that the command needs does not answer: the same command may work later."""

    exit_code = ContactLost.exit_code


class StorageUnavailable(NoAnswer):
    """Storage did not respond for as long as it is waited for; unlike after lost contact, nothing runs any more."""

    exit_code = 1


@contextmanager
def collected(errors: list[UserError]) -> Iterator[None]:
    """Adds the error of a block to a list, so that further checks can follow before all are raised, `combined`."""
    try:
        yield
    except UserError as error:
        errors.append(error)


def combined(errors: Sequence[UserError], where: str, most: int | None = None) -> UserError:
    """One error from several: a single one as it is, else each on a line, with its fix; ``most`` of them, and a count.

    An error that lists several stands for these.
    """
    single = [part for error in errors for part in (error.parts or (error,))]
    errors = [*{(error.what, error.fix): error for error in single}.values()]
    if len(errors) == 1:
        return errors[0]
    lines = [f"\n    {error.what}: {error.fix}" for error in errors[:most]]
    lines += [f"\n    and {len(errors) - len(lines)} more"] if len(errors) > len(lines) else []
    found = UserError(f"{where} has {len(errors)} problems:{''.join(lines)}", "correct all of them")
    found.parts = errors
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """The fix for an unknown name: the nearest known one, or the list of them."""
    known = sorted(known)
    if not known:
        return "remove it: there is none to choose"
    same = [name for name in known if name.lower().replace("_", "-") == word.lower().replace("_", "-")]
    close = same or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"use one of: {', '.join(known)}"


def some(names: Iterable[str], shown: int = 20) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def short_traceback(error: BaseException, frames: int = 4) -> str:
    """The user's own last frames of an exception's traceback, with the very last, and its message.

    The user's own are those outside of installed packages, of the standard library and of Heliostat. Where there are none, the
    last frames; those of the import system are left out.
    """
    shown = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    own = [frame for frame in shown if not os.path.abspath(frame.filename).startswith(INSTALLED)]
    kept = [*own[-frames:], *(shown[-1:] if own[-1:] != shown[-1:] else [])] if own else shown[-frames:]
    lines = traceback.format_list(kept)
    return "".join([*lines, *traceback.format_exception_only(error)]).strip()
