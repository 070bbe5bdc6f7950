"""What shows the progress of a call: pictures in a notebook, the lines of the command in a script, or nothing."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heliostat.interface.notebook import RunPicture, SweepPicture, in_notebook

if TYPE_CHECKING:
    from heliostat.commands.terminal.progress import Shown


@dataclass
class OnHead:
    """What is known here of a run or a sweep that the head of a cluster drives."""

    config: Any
    objectives: Any = None

    @property
    def uri(self) -> str:
        """Its folder, on the cluster."""
        return f"{self.config.storage or 'runs'}/{self.config.name}"

    @property
    def total_steps(self) -> int | None:
        """The steps of a run, if its config has them."""
        return self.config.steps  # type: ignore[no-any-return]


class Silent:
    """Shows nothing."""

    def connected(self) -> None:
        """Ray is connected."""

    def update(self, news: Any) -> None:
        """There is something new."""


def display(plan: Any, quiet: bool) -> "AbstractContextManager[Shown]":
    """What shows the progress of a run here: the curves in a notebook, else the lines of the command."""
    from heliostat.commands.terminal.progress import Display

    if quiet:
        return nullcontext(Silent())
    return RunPicture(plan, _earlier(plan)) if in_notebook() else Display(plan)


def sweep_display(plan: Any, quiet: bool) -> "AbstractContextManager[Shown]":
    """The same of a sweep: its trials."""
    from heliostat.commands.sweep.trials import Display

    if quiet:
        return nullcontext(Silent())
    return SweepPicture(plan) if in_notebook() else Display(plan)


@contextmanager
def watch_here(plan: Any, quiet: bool) -> Iterator[Any]:
    """What gets the records of a run in this process, see `display`."""
    from heliostat.commands.terminal.progress import evaluations

    if quiet or not in_notebook():
        yield Silent().update if quiet else evaluations
    else:
        with RunPicture(plan, _earlier(plan)) as shown:
            yield shown.update


def _earlier(plan: Any) -> list[dict[str, Any]]:
    """The records of a run before it is resumed, as far as they can be read here."""
    from heliostat.workloads.run.journal import read_journal
    from heliostat.workloads.run.record import METRICS

    return [] if isinstance(plan, OnHead) else read_journal(plan.folder, METRICS)
