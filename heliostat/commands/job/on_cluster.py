"""heliostat train, sweep, predict, evaluate and others with --on PROFILE: submits the same command as a job on a cluster."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat.cluster.jobs.contents import Contents
from heliostat.cluster.jobs.follow import Work, about, keeping_output, new_job_id, to_stream
from heliostat.cluster.profile import Profile
from heliostat.cluster.targets.run import run_there
from heliostat.commands.job.sending import labels_to_send, show
from heliostat.commands.terminal.live import line, note
from heliostat.config import is_inline
from heliostat.console import err, out, print_json
from heliostat.errors import JobFailed, UserError
from heliostat.folder import absolute, expanded

HELIOSTAT = ("python", "-P", "-m", "heliostat")
"""The command in a job; with -P a ``types.py`` in the working directory does not replace Python's own."""


@dataclass(frozen=True)
class Request:
    """A command for a cluster, checked; nothing has been sent."""

    profile: Profile
    name: str
    """Of the run or the sweep, which becomes the job's."""
    command: list[str]
    """The words of the command, with paths from the working directory."""
    plan: Any
    files: Contents
    """What the job gets of the working directory."""
    values: Mapping[str, str]
    """Variables of the shell that the job gets, whose values nothing may show."""
    times: list[str]
    """The next times of scheduled runs."""
    stopped: str = Work.stopped
    """What a message says after the job was stopped."""


def send(request: Request, args: argparse.Namespace) -> int:
    """Submit a command as a job with the options of this one, and follow it to its end; or with ``--cron`` schedule it."""
    argv = argv_of(request, args)
    if args.cron:
        return _schedule(request, args, argv)
    return send_command(request.profile, request.name, argv, args, request.files, request.values, request.stopped)


def send_or_show(request: Request, args: argparse.Namespace, show_plan: Callable[..., None]) -> int:
    """Submit a command, or with ``--dry-run`` show its plan, the files that it gets, and with ``--cron`` its next times."""
    if not args.dry_run:
        return send(request, args)
    show_plan(request.plan, args.json, request.files, request.values)
    if not args.json:
        show_times(request.times)
    return 0


def argv_of(request: Request, args: argparse.Namespace) -> list[str]:
    """The command of the job, with the options of this one."""
    argv = [*HELIOSTAT, *request.command]
    argv += [part for override in args.set for part in ("--set", override)]
    return argv + ["--json"] * args.json + ["--verbose"] * args.verbose


def send_for_run(args: argparse.Namespace, words: list[str], options: list[str], files: Contents | None = None) -> int:
    """Submit a command about a run on the cluster's storage, ``words``, as a job, with ``options`` and those of this one.

    Raises:
        UserError: a variable cannot be sent; nothing has been sent.
    """
    from heliostat.cluster.profile import find
    from heliostat.commands.job.sending import files_to_send, variables_to_send

    argv = [*HELIOSTAT, *words, args.run_name, *options, "--storage", args.storage]
    argv += [part for override in getattr(args, "set", ()) for part in ("--set", override)] + ["--json"] * args.json
    name = args.run_name.rstrip("/").rpartition("/")[2].replace("@", "-")
    values = variables_to_send(args.env)
    return send_command(find(args.on), f"{words[-1]}-{name}", argv, args, files or files_to_send(), values)


def send_command(
    profile: Profile, name: str, argv: list[str], args: argparse.Namespace, files: Contents, values: Mapping[str, str],
    stopped: str = Work.stopped,
) -> int:  # fmt: skip
    """Submit a command as a job that is called ``name``, and follow it to its end; with ``--json`` print its document.

    With ``--dry-run`` print what would be sent.
    """
    if args.dry_run:
        out.print(f"# command: {shlex.join(argv)}", highlight=False, markup=False, soft_wrap=True)
        show(files, values)
        return 0
    write = to_stream(sys.stderr if args.json else sys.stdout)
    printed = follow_command(profile, name, argv, args, files, values, write, stopped)
    if args.json:
        print_json(document_of(printed))
    return 0


def follow_command(
    profile: Profile, name: str, argv: list[str], args: argparse.Namespace, files: Contents, values: Mapping[str, str],
    write: Callable[[str], Any], stopped: str = Work.stopped,
) -> str:  # fmt: skip
    """Submit a command as a job that is called ``name``, and ``write`` what it prints until its end; returns all of it."""
    job = about_job(profile, args.on, name, args.label, args.over_budget)
    work = Work(new_job_id(name.lower()), argv, files, secret_env=values, stopped=stopped, metadata=job)
    printed: list[str] = []

    def keep(text: str) -> None:
        printed.append(text)
        write(text)

    with line() as shown:
        again = f"heliostat logs {args.on} {work.job_id} -f"
        run_there(profile, work, keep, shown.say, args.ephemeral, again, args.over_budget)
    return "".join(printed)


def check_times(profile: Profile, name: str, args: argparse.Namespace) -> list[str]:
    """The next times of scheduled runs, none without ``--cron``.

    Raises:
        UserError: the schedule, the time zone or the name is invalid.
    """
    from heliostat.cluster.targets.scheduled import check

    return check(profile, name, args.cron, args.time_zone) if args.cron else []


def show_times(times: list[str]) -> None:
    """Print the next times of scheduled runs."""
    from heliostat.console import out

    if times:
        out.print(f"# next times: {', '.join(times)}", highlight=False, markup=False, soft_wrap=True)


def about_job(
    profile: Profile, on: str, run: str = "", labels: Sequence[str] = (), over_budget: bool = False
) -> dict[str, str]:
    """The metadata of a job of this profile, which ``on`` names; see `heliostat.cluster.jobs.follow.about`.

    With ``over_budget``, no spent budget stops it.
    """
    own = about(profile.name, run, "" if profile.platform == "local" else on)
    return {**own, **({"over_budget": "yes"} if over_budget else {}), **labels_to_send(labels)}


def _schedule(request: Request, args: argparse.Namespace, argv: list[str]) -> int:
    """Create the documents that run this command on a schedule."""
    from heliostat.cluster.jobs.packaging import compact, isolated, packages
    from heliostat.cluster.targets import scheduled
    from heliostat.cluster.targets.budget import allowances, guarded
    from heliostat.cluster.targets.kubernetes import KubernetesCluster

    profile, name = request.profile, request.name
    target = KubernetesCluster(profile)
    target.check()
    budgets = [] if args.over_budget else allowances(target, lambda text: err.print(text, highlight=False, markup=False))
    command = isolated(keeping_output(guarded(scheduled_command(name, argv), budgets)))
    code = [compact(package) for package in packages(request.files)]
    documents = scheduled.documents(
        profile, name, args.cron, command, code, target.api.features, args.time_zone,
        secret_env=request.values, about={**about_job(profile, args.on, name, args.label, args.over_budget), "cron": name},
    )  # fmt: skip
    new = scheduled.create(target.kube, profile, name, [*target.claims(), *documents])
    note(target, "cron create" if new else "cron change", name)
    when = f"{args.cron}, next at {', '.join(request.times)}"
    out.print(f"{name} will run at {when}; list or delete it with heliostat cron {profile.name}", highlight=False)
    return 0


def scheduled_command(name: str, argv: Sequence[str]) -> str:
    """The shell command of scheduled runs, which gives each the time as its name, unless it names them by their data."""
    command = shlex.join(argv)
    return command if "--if-new" in argv else f"{command} --set name={name}-$(date +%Y%m%d-%H%M)"


def relative_path(config: str) -> str:
    """The path of a file relative to the working directory, which the job gets a copy of.

    Raises:
        UserError: the file is outside of it.
    """
    if is_inline(config):
        return config
    path = Path(config).resolve()
    if not path.exists():
        return config  # a bundled one, which the job finds by the same name
    if not path.is_relative_to(Path.cwd()):
        raise UserError(
            f"{config} is outside of the working directory, which the job gets a copy of",
            "start from a folder that contains it",
        )
    return str(path.relative_to(Path.cwd()))


def check_storage(profile: Profile, storage: str, key: str = "storage") -> None:
    """Raise a UserError if the cluster's nodes do not share the storage, which ``key`` names."""
    remote = "://" in storage and not storage.startswith("file:")
    if remote or not Path(storage).expanduser().is_absolute() or profile.platform == "local":
        return
    root = profile.storage.root
    if not Path(storage).is_relative_to(root):
        raise UserError(
            f"{key} is {storage}, which the nodes of {profile.name} do not share",
            f"set {key} to a relative path (it is then on {root}), to a folder in {root}, or to s3:// or gs://",
        )


def place_there(profile: Profile, place: str, key: str, variables: Mapping[str, str] | None) -> str:
    """The absolute path or URI of what a job writes, which ``key`` names; a relative one is on the cluster's storage.

    Raises:
        UserError: the cluster's nodes do not share it.
    """
    there = absolute(expanded(place, variables, key), profile.storage.root if profile.platform == "kubernetes" else ".")
    check_storage(profile, there, key)
    return there


def document_of(printed: str) -> Any:
    """The JSON document at the end of a job's output, which may contain other text."""
    start = printed.rfind("\n{\n") + 1
    try:
        document, _ = json.JSONDecoder().raw_decode(printed[start:])
    except ValueError:
        raise JobFailed("the job succeeded, but its output has no result, see above") from None
    return document
