"""heliostat runs pull: brings the folder of a run, its report, checkpoints or logs from a cluster's storage to this machine."""

import argparse
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.commands.terminal.live import line
from heliostat.wording import counted

if TYPE_CHECKING:
    from heliostat.cluster.targets.kept import KeptJob

IDENTITY = ("config.yaml", "sweep.yaml", "script.json")
"""The file by which a run, a sweep and a torchrun script are known."""
MODEL = ("checkpoints", "result.json", "index.json", "code")
"""What evaluate and predict need of a run, beside its config."""
PARTS = {
    "report": ["report.html"],
    "checkpoint": [*MODEL, *(f"trials/*/{name}" for name in (IDENTITY[0], *MODEL))],
    "log": [],
}
"""The files of a run, or of a sweep and its trials, that ``--only`` brings."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="RUN", help="the name of a run or a sweep, as heliostat runs --on PROFILE lists it")
    parser.add_argument("--on", metavar="PROFILE", required=True, help="whose storage has the run, such as gpu")
    parser.add_argument("--storage", default="runs", metavar="DIR", help="where the run is on that storage (default: runs)")
    parser.add_argument("--to", default="runs", metavar="DIR", help="the folder here that gets the run (default: runs)")
    parser.add_argument("--only", choices=PARTS, help="bring only this, not the whole folder")
    parser.add_argument("--open", action="store_true", help="open the report in the browser")
    parser.epilog = "example: heliostat runs pull digits --on gpu --open (its jobs' output comes as logs/JOB.log)"


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.profile import find
    from heliostat.cluster.targets.storage import opened
    from heliostat.console import out

    profile, to = find(args.on), Path(args.to)
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to, prefix=".pull-") as name, line() as shown:
        scratch = Path(name)
        with opened(profile, shown.say) as storage:
            run, size = _fetch(storage, profile, args, scratch, to / args.name)
        _move(run, to / args.name)
    out.print(f"brought {to / args.name}: {size}", highlight=False, markup=False, soft_wrap=True)
    if (report := to / args.name / "report.html").exists():
        out.print(f"  report     {report}", highlight=False, markup=False, soft_wrap=True)
        if args.open:
            import webbrowser

            webbrowser.open(report.resolve().as_uri())
    return 0


def on_storage(profile: Any, place: str) -> str:
    """A folder as a path relative to the storage.

    Raises:
        UserError: it is elsewhere.
    """
    from heliostat.cluster.targets.storage import root_of
    from heliostat.errors import UserError

    root = root_of(profile).rstrip("/")
    inside = place.removeprefix(f"{root}/") if place.startswith(f"{root}/") else place
    if inside.startswith("/") or "://" in inside or ".." in inside.split("/"):
        raise UserError(f"--storage is {place}, but must be on the storage of {profile.name}", f"give a folder in {root}")
    return inside.strip("/")


def _fetch(storage: Any, profile: Any, args: argparse.Namespace, scratch: Path, target: Path) -> tuple[Path, str]:
    """Copy the files to a scratch folder; returns the run's folder there, and what it has.

    Raises:
        UserError: the run does not exist, or the target is another run.
    """
    from heliostat.cluster.jobs.contents import megabytes
    from heliostat.cluster.targets.kept import RECORDS, kept_jobs
    from heliostat.config import nearest
    from heliostat.errors import UserError

    place = on_storage(profile, args.storage)
    storage.fetch([RECORDS, *(f"{place}/*/{name}" for name in IDENTITY)], scratch)
    jobs = kept_jobs(scratch)
    known = sorted(path.name for path in (scratch / place).glob("*"))
    mine = [job for job in jobs if job.run == args.name]
    if args.name not in known and not mine:
        fix = nearest(args.name, known) if known else "train one, or give --storage"
        raise UserError(f"run {args.name!r} does not exist in {place} on the storage of {profile.name}", fix)
    run = scratch / place / args.name
    _check_same(run, target)
    parts = [f"{place}/{args.name}/{part}" for part in PARTS[args.only]] if args.only else [f"{place}/{args.name}"]
    logs = mine if args.only in (None, "log") else []
    storage.fetch([*parts, *(job.pattern for job in logs)], scratch)
    _write_logs(run, logs, scratch)
    files = [path for path in run.rglob("*") if path.is_file()]
    return run, f"{counted(len(files), 'file')}, {megabytes(sum(path.stat().st_size for path in files))}"


def _write_logs(run: Path, jobs: "Sequence[KeptJob]", scratch: Path) -> None:
    for job in jobs:
        (run / "logs").mkdir(parents=True, exist_ok=True)
        (run / "logs" / f"{job.id}.log").write_bytes(job.output(scratch))


def _check_same(run: Path, target: Path) -> None:
    """Raise a UserError if the target is there, and not a copy of the same run."""
    from heliostat.errors import UserError

    if not target.exists() or not any(target.iterdir()):
        return
    pairs = [(run / name, target / name) for name in IDENTITY if (run / name).exists()]
    if not pairs and (target / "logs").exists():
        return  # a job that failed before its run had a folder
    if any(not there.exists() or _identity(here) != _identity(there) for here, there in pairs) or not pairs:
        raise UserError(f"{target} exists, and is another run", "choose another folder: --to DIR")


def _identity(path: Path) -> str:
    """What a run keeps for its life: when it was created, or else the whole file."""
    text = path.read_text()
    found = re.search(r'^created: .*$|"created": [\d.]+', text, re.MULTILINE)
    return found[0] if found else text


def _move(run: Path, target: Path) -> None:
    """Move the files, each atomically."""
    for path in sorted(run.rglob("*")):
        place = target / path.relative_to(run)
        if path.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
