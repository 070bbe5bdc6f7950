"""heliostat train, sweep, predict and dataset build --on PROFILE: submits the same command as a job on a cluster."""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heliostat.cluster.jobs.contents import Contents
from heliostat.cluster.jobs.follow import Work, about, keeping_output, to_stream
from heliostat.cluster.profile import Profile
from heliostat.cluster.targets.run import new_job_id, run_there
from heliostat.commands.live import line
from heliostat.commands.sending import show
from heliostat.console import out, print_json
from heliostat.errors import JobFailed, UserError

HELIOSTAT = ("python", "-P", "-m", "heliostat")
"""The command in a job; with -P a ``types.py`` in the working directory does not replace Python's own."""


def send(
    profile: Profile, config: Any, args: argparse.Namespace, command: list[str], files: Contents, values: Mapping[str, str]
) -> int:
    """Submit a command as a job with the options of this one, or with ``--cron`` as a scheduled job; follow the job to its end.

    Args:
        profile: of the cluster.
        config: of the run or the sweep; its name becomes the job's.
        args: the arguments of this command.
        command: the words of the command, with paths from the working directory.
        files: what the job gets of the working directory.
        values: variables of the shell that the job gets, whose values nothing may show.
    """
    argv = [*HELIOSTAT, *command]
    argv += [part for override in args.set for part in ("--set", override)]
    argv += ["--json"] * args.json + ["--verbose"] * args.verbose
    if args.cron:
        return _schedule(profile, config, args, argv, files, values)
    return send_command(profile, config.name, argv, args, files, values)


def send_command(
    profile: Profile, name: str, argv: list[str], args: argparse.Namespace, files: Contents, values: Mapping[str, str]
) -> int:
    """Submit a command as a job that is called ``name``, and follow it to its end; with ``--json`` print its document.

    With ``--dry-run`` print what would be sent.
    """
    if args.dry_run:
        out.print(f"# command: {shlex.join(argv)}", highlight=False, markup=False, soft_wrap=True)
        show(files, values)
        return 0
    job = about_job(profile, args.on, name)
    work = Work(new_job_id(name.lower()), argv, files, secret_env=values, metadata=job)
    printed: list[str] = []
    write = to_stream(sys.stderr if args.json else sys.stdout)

    def keep(text: str) -> None:
        printed.append(text)
        write(text)

    with line() as shown:
        again = f"heliostat logs {args.on} {work.job_id} -f"
        run_there(profile, work, keep, shown.say, args.ephemeral, again)
    if args.json:
        print_json(_document("".join(printed)))
    return 0


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


def about_job(profile: Profile, on: str, run: str = "") -> dict[str, str]:
    """The metadata of a job of this profile, which ``on`` names; see `heliostat.cluster.jobs.follow.about`."""
    return about(profile.name, run, "" if profile.platform == "local" else on)


def _schedule(
    profile: Profile, config: Any, args: argparse.Namespace, argv: list[str], files: Contents, values: Mapping[str, str]
) -> int:
    """Create the documents that run this command on a schedule, each time under a new name."""
    from heliostat.cluster.jobs.packaging import isolated, packages
    from heliostat.cluster.targets import scheduled
    from heliostat.cluster.targets.kubernetes import KubernetesCluster

    times = check_times(profile, config.name, args)
    target = KubernetesCluster(profile)
    target.check()
    command = isolated(keeping_output(f"{shlex.join(argv)} --set name={config.name}-$(date +%Y%m%d-%H%M)"))
    documents = scheduled.documents(
        profile, config.name, args.cron, command, packages(files), target.api.features, args.time_zone,
        secret_env=values, about=about_job(profile, args.on, config.name),
    )  # fmt: skip
    scheduled.create(target.kube, profile, config.name, [*target.claims(), *documents])
    when = f"{args.cron}, next at {', '.join(times)}"
    out.print(f"{config.name} will run at {when}; list or delete it with heliostat cron {profile.name}", highlight=False)
    return 0


def relative_path(config: str) -> str:
    """The path of a file relative to the working directory, which the job gets a copy of.

    Raises:
        UserError: the file is outside of it.
    """
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


def _document(printed: str) -> Any:
    """The JSON document at the end of a job's output, which may contain other text."""
    start = printed.rfind("\n{\n") + 1
    try:
        document, _ = json.JSONDecoder().raw_decode(printed[start:])
    except ValueError:
        raise JobFailed("the job succeeded, but its output has no result, see above") from None
    return document
