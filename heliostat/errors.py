"""The errors that users see, each kind with its exit code."""

import traceback


class HeliostatError(Exception):
    """An error that is shown as one message, without a traceback."""

    exit_code = 1


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


class NotWritable(UserError):
    """Storage cannot be written: no space, no permission, no folder. It may be temporary, so work in progress retries."""


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
    """Storage did not respond for as long as it is waited for."""


def short_traceback(error: BaseException, frames: int = 4) -> str:
    """The last frames of an exception's traceback, without those of the import system, and its message."""
    shown = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    lines = traceback.format_list(shown[-frames:]) + traceback.format_exception_only(error)
    return "".join(lines).strip()
