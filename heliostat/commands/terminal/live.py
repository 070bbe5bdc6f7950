"""Arguments and the live status line that the cluster commands share."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from heliostat.console import err, printable


def add_profile(parser: argparse.ArgumentParser) -> None:
    """The profile, and overrides of its keys."""
    parser.add_argument(
        "profile", help="a name, such as gpu, in cluster/profiles or the working directory, or the path of a file"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, such as groups.gpu.max=4"
    )


def add_dashboard(parser: argparse.ArgumentParser) -> None:
    """Add the option for Ray's dashboard; see `refuse_dashboard` and `show_dashboard`."""
    parser.add_argument("--dashboard", action="store_true", help="start Ray's dashboard on this machine, and print its URL")


def refuse_dashboard(args: argparse.Namespace, address: str | None) -> None:
    """Raise `UserError` for ``--dashboard`` where no Ray is started on this machine."""
    from heliostat.errors import UserError

    reasons = {
        f"--on {args.on} runs on a cluster, which has one": args.on
        and f"leave it out; heliostat session {args.on} opens that one",
        "--in-process runs without Ray": getattr(args, "in_process", False) and "leave one of them out",
        f"RAY_ADDRESS is {address}, a Ray that runs already": address and "leave it out, or unset RAY_ADDRESS",
    }
    for reason, fix in reasons.items():
        if args.dashboard and fix:
            raise UserError(f"--dashboard starts a dashboard on this machine, but {reason}", fix)


def show_dashboard(url: str, asked: bool) -> None:
    """Print the URL of a dashboard that was asked for, or on a terminal that of the Ray to which RAY_ADDRESS leads."""
    if url and (asked or err.is_terminal):
        token = " (its token is in ~/.heliostat/ray-token)" if asked else ""
        err.print(f"Ray's dashboard is {url}{token}", highlight=False, soft_wrap=True)


def nodes_of(address: str | None) -> Any:
    """The nodes that a run without ``--on`` can have: those of the Ray at ``address``, or this machine."""
    from heliostat.cluster import in_process

    if not address:
        return in_process.machine()
    with in_process.connection(address):
        from heliostat.workloads.nodes import available

        return available()


def target_of(args: argparse.Namespace) -> Any:
    """The cluster that the arguments name."""
    from heliostat.cluster.profile import find
    from heliostat.cluster.targets.run import open_target

    return open_target(find(args.profile, args.set))


def note(target: Any, what: str, which: str = "", last: bool = False) -> None:
    """Add an action to the history of a cluster, see `heliostat.cluster.targets.history.noted`; a remark if that fails."""
    from heliostat.cluster.targets import history

    history.noted(target, lambda text: err.print(text, highlight=False, markup=False, soft_wrap=True), what, which, last)


class Line:
    """A status line of a wait: live on a terminal, else a line for each change."""

    def __init__(self) -> None:
        self._status: Any = None
        self._last = ""

    def say(self, text: str) -> None:
        """Show a line instead of the one before; an empty one takes it away."""
        if text == self._last:
            return
        self._last = text
        if not err.is_terminal:
            if text:
                err.print(text, highlight=False, markup=False, soft_wrap=True)
            return
        self.clear()
        if text:
            from rich.text import Text

            self._status = err.status(Text(printable(text)))
            self._status.start()

    def clear(self) -> None:
        """Remove the line."""
        if self._status is not None:
            self._status.stop()
            self._status = None


@contextmanager
def line() -> Iterator[Line]:
    """A live line that is removed afterwards."""
    shown = Line()
    try:
        yield shown
    finally:
        shown.clear()


def show(lines: Iterable[str]) -> None:
    """Show the status texts of a wait until it ends."""
    with line() as shown:
        for text in lines:
            shown.say(text)


def possible_jobs(state: Any) -> str:
    """The jobs that a cluster runs, or why they are not known; empty if it runs none."""
    if state.jobs_unknown:
        return f"which ones is not known ({state.jobs_unknown})"
    return ", ".join(job.id for job in state.jobs if not job.done)


def confirm(question: str, yes: bool) -> None:
    """Ask for confirmation, unless ``yes`` is set.

    Raises:
        UserError: the answer is no, or standard input is not a terminal.
    """
    from heliostat.errors import UserError

    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(question, "add --yes to confirm")
    err.print(f"{question}\nContinue? [y/N] ", end="", highlight=False, markup=False)
    if input().strip().lower() not in ("y", "yes"):
        raise UserError("not confirmed; nothing was changed", "answer y, or add --yes")
