"""Runs and sweeps on a cluster: sent as jobs, followed, and opened where their files are."""

import shlex
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from heliostat.errors import HeliostatError, JobFailed, UserError
from heliostat.folder import Folder
from heliostat.interface.followed import drawing, drawing_trials
from heliostat.interface.notebook import FollowedSweep, RunPicture, in_notebook
from heliostat.interface.run import Run
from heliostat.interface.shown import OnHead
from heliostat.interface.sweep import Sweep
from heliostat.retry import UNAVAILABLE

if TYPE_CHECKING:
    from heliostat.tuning.config import SweepConfig
    from heliostat.tuning.results.table import SweepResult
    from heliostat.workloads.config import TrainConfig
    from heliostat.workloads.run.record import Result

SAYS = "heliostat: "
"""How the messages of a command begin."""


def train_on(config: "TrainConfig", options: Namespace, quiet: bool) -> Run:
    """Train on the cluster of a profile, and return the run there."""
    from heliostat.commands.train import request_for
    from heliostat.workloads.run.record import Result

    request, write = request_for(config, options), _writer(quiet)
    if in_notebook() and not quiet:
        with RunPicture(OnHead(config), []) as shown:
            document = _followed(request, options, drawing(shown.update, write))
    else:
        document = _followed(request, options, write)
    return reached(Result(**_fields(document, Result)), options.on)


def sweep_on(config: "SweepConfig", options: Namespace, quiet: bool) -> Sweep:
    """Run a sweep on the cluster of a profile, and return the sweep there."""
    from heliostat.commands.sweep import request_for
    from heliostat.tuning.results.table import SweepResult

    request, write = request_for(config, options), _writer(quiet)
    if in_notebook() and not quiet:
        with FollowedSweep(request.plan) as shown:
            document = _followed(request, options, drawing_trials(shown.update, shown.headline, write))
    else:
        document = _followed(request, options, write)
    return reached_sweep(SweepResult(**_fields(document, SweepResult)), options.on)


def _fields(document: dict[str, Any], kind: Any) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name in kind.model_fields}


def _writer(quiet: bool) -> Callable[[str], Any]:
    from heliostat.cluster.jobs.follow import to_stream

    return (lambda text: None) if quiet else to_stream(sys.stdout)


def _followed(request: Any, options: Namespace, write: Callable[[str], Any]) -> dict[str, Any]:
    """Send a command, write what its job prints but the document at the end, and return that."""
    from heliostat.commands.job.on_cluster import argv_of, document_of, follow_command

    argv = argv_of(request, options)
    lines = Lines(write)
    try:
        printed = follow_command(request.profile, request.name, argv, options, request.files, request.values, lines)
    except JobFailed as error:
        raise lines.error(error) from None
    document: dict[str, Any] = document_of(printed)
    return document


class Lines:
    """Passes text on by lines, up to the first line of a JSON document."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write, self._rest, self._over = write, "", False
        self._last = list[str]()

    def __call__(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._over = self._over or line == "{"
            if not self._over:
                self._write(f"{line}\n")
                more = self._last if line.startswith("  ") and self._last else []
                self._last = [*more, line] if more or line.startswith(SAYS) else []

    def error(self, failed: JobFailed) -> HeliostatError:
        """What the command in a job that failed has raised, by the message that it ends with; else the failure itself."""
        what, _, fix = "\n".join(self._last).removeprefix(SAYS).partition("\n  fix: ")
        if not what:
            return failed
        if fix and failed.exit_code == UserError.exit_code:
            return UserError(what, fix)
        error = JobFailed(f"{what}\n  fix: {fix}" if fix else what)
        error.exit_code = failed.exit_code
        return error


def reached(result: "Result", on: str = "") -> Run:
    """The run of a result from a cluster; whether this machine can read its files is known by its ``result.json``."""
    from heliostat.workloads.run.record import read_result

    same = _is_here(result.run, lambda folder: read_result(folder) == result.model_copy(update={"already": False}))
    return Run(result.run, result, None if same else _away(result.name, result.run, on))


def reached_sweep(result: "SweepResult", on: str = "") -> Sweep:
    """The same for a sweep."""
    from heliostat.tuning.results.table import SweepResult

    same = _is_here(result.sweep, lambda folder: SweepResult.read(folder) == result.model_copy(update={"already": False}))
    return Sweep(result.sweep, result, None if same else _away(result.name, result.sweep, on))


def _is_here(place: str, has: Callable[[Folder], bool]) -> bool:
    try:
        return has(Folder.at(place).once)
    except (UserError, *UNAVAILABLE):
        return False


def _away(name: str, place: str, on: str) -> UserError:
    """The error of a run whose files this machine cannot read."""
    where = f"the storage of {on}" if on else "its cluster"
    if on:
        folder = place.rstrip("/").rpartition("/")[0].rpartition("/")[2]
        option = "" if folder == "runs" else f" --storage {shlex.quote(folder)}"
        fix = f'heliostat runs pull {shlex.quote(name)} --on {on}{option}, then load_run("{name}")'
    else:
        fix = "copy that folder to this machine, and open the copy with load_run"
    return UserError(f"the files of {name} are in {place} on {where}, which this machine does not read", fix)


def away(on: str, storage: str) -> Callable[[str], UserError | None]:
    """Makes that error of each run that `heliostat.runs` lists on a cluster; None where this machine reads the storage."""
    from heliostat.cluster.profile import find

    profile = find(on)
    if profile.in_place:
        return lambda name: None
    return lambda name: _away(name, f"{storage}/{name}", on)
