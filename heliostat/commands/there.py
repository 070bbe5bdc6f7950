"""heliostat train and sweep --on PROFILE: the same command, as a job on a cluster."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from heliostat.cluster.jobs.follow import Work, to_stream
from heliostat.cluster.profile import Profile
from heliostat.cluster.targets.run import new_job_id, run_there
from heliostat.commands.live import line
from heliostat.console import print_json
from heliostat.errors import JobFailed, UserError

HELIOSTAT = ("python", "-P", "-m", "heliostat")
"""The command in a job; -P, because a ``types.py`` in the working directory is not for Python's own start."""


def run_train(profile: Profile, config: Any, args: argparse.Namespace) -> int:
    """Run a train config on a profile's cluster, and show what it prints and how it ends.

    Raises:
        UserError: config and cluster do not fit together; nothing has been sent.
    """
    from heliostat.workloads.plan import prepare

    there = inside(args.config)
    check_storage(profile, config.storage)
    plan = prepare(config, profile.capacity, profile.storage.root, elsewhere=True)
    if args.dry_run:
        from heliostat.commands.train import _show_plan

        _show_plan(plan, args.json)
        return 0
    return _send(profile, config, args, ["train", there])


def run_sweep(profile: Profile, config: Any, args: argparse.Namespace) -> int:
    """Run a sweep on a profile's cluster: its driver is a job on the head, which holds no GPU.

    Raises:
        UserError: config and cluster do not fit together; nothing has been sent.
    """
    from heliostat.tuning.plan import plan_sweep

    there = inside(args.config)
    plan = plan_sweep(config, profile.capacity, profile.storage.root, elsewhere=True)
    check_storage(profile, plan.base["storage"])
    if args.dry_run:
        from heliostat.commands.sweep import show_plan

        show_plan(plan, args.json)
        return 0
    return _send(profile, config, args, ["sweep", there])


def _send(profile: Profile, config: Any, args: argparse.Namespace, command: list[str]) -> int:
    """Send a command as a job, with the options of this one, and follow it to its end."""
    argv = [*HELIOSTAT, *command]
    argv += [part for override in args.set for part in ("--set", override)]
    argv += ["--json"] * args.json + ["--verbose"] * args.verbose
    if args.cron:
        return _nightly(profile, config, args.cron, argv)
    work = Work(new_job_id(config.name.lower()), argv, Path.cwd(), isolated=True)
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


def _nightly(profile: Profile, config: Any, schedule: str, argv: list[str]) -> int:
    """Apply what runs this command by a schedule, each time under a name of its own."""
    from heliostat.cluster.jobs.packaging import isolated, packages
    from heliostat.cluster.targets import scheduled
    from heliostat.cluster.targets.kubernetes import KubernetesCluster
    from heliostat.console import out

    if profile.platform == "local":
        raise UserError("--cron is for Kubernetes, and this profile is local", "use cron on this machine")
    target = KubernetesCluster(profile)
    target.check()
    command = isolated(f"{shlex.join(argv)} --set name={config.name}-$(date +%Y%m%d-%H%M)")
    code = packages(Path.cwd(), isolated=True)
    for document in [
        *target.claims(),
        *scheduled.documents(profile, config.name, schedule, command, code, target.api.features),
    ]:
        target.kube.objects(document["kind"]).apply(document)
    out.print(f"{config.name} will run at {schedule}; heliostat cron {profile.name} lists and deletes", highlight=False)
    return 0


def inside(config: str) -> str:
    """The config's path from the working directory, which is what is sent."""
    path = Path(config).resolve()
    if not path.exists():
        return config  # a bundled one, which the job finds by the same name
    if not path.is_relative_to(Path.cwd()):
        raise UserError(f"{config} is outside of the working directory, which is what is sent", "start from a folder above it")
    return str(path.relative_to(Path.cwd()))


def check_storage(profile: Profile, storage: str) -> None:
    """Refuse a place that the cluster's nodes do not share, before a GPU is taken."""
    remote = "://" in storage and not storage.startswith("file:")
    if remote or not Path(storage).expanduser().is_absolute() or profile.platform == "local":
        return
    root = profile.storage.root
    if not Path(storage).is_relative_to(root):
        raise UserError(
            f"storage is {storage}, which is another place on each node of {profile.name}",
            f"set storage to a relative path (it is then on {root}), to a folder in {root}, or to s3:// or gs://",
        )


def _document(printed: str) -> Any:
    """The JSON document at the end of what a job printed, where everything else may be mixed with it."""
    begin = printed.rfind("\n{\n") + 1
    try:
        document, _ = json.JSONDecoder().raw_decode(printed[begin:])
    except ValueError:
        raise JobFailed("the job succeeded, but its result is not in its output, see above") from None
    return document
