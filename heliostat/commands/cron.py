"""heliostat cron: the scheduled runs of a profile."""

import argparse

from heliostat.commands.terminal.live import add_profile, note


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    parser.add_argument("--delete", metavar="NAME", help="delete these scheduled runs, including a running one")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = 'example: heliostat cron gpu; heliostat train CONFIG --on PROFILE --cron "0 2 * * *" creates them'


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.kube.kuberay import KubeRay
    from heliostat.cluster.profile import find
    from heliostat.cluster.targets import scheduled
    from heliostat.cluster.targets.kubernetes import KubernetesCluster
    from heliostat.console import err, out, print_json, print_table

    def say(text: str) -> None:
        out.print(text, highlight=False, markup=False, soft_wrap=True)

    profile = find(args.profile, args.set)
    kube = KubeRay(namespace=profile.namespace)
    if args.delete:
        scheduled.delete(kube, profile, args.delete)
        note(KubernetesCluster(profile, kube), "cron delete", args.delete)
        out.print(f"deleted {args.delete}", highlight=False)
        return 0
    rows = scheduled.find(kube, profile)
    if args.json:
        print_json(rows)
    elif not rows:
        err.print(f"{profile.name} has no scheduled runs", highlight=False)
    else:
        columns = ("name", "schedule", "suspended", "last")
        print_table(columns, [[row[column] for column in columns] for row in rows])
        for run in (run for row in rows for run in row["runs"]):
            when = f"ended {run['ended']}" if run["ended"] else f"started {run['started']}"
            why = "" if run["state"] == "SUCCEEDED" else f" {_first_line(run['message'])}"
            say(f"  {run['job']}  {run['state']}  {when}{why}".rstrip())
        if any(run["state"] in ("FAILED", "STOPPED") for row in rows for run in row["runs"]):
            say(f"heliostat logs {args.profile} JOB shows the output")
    return 0


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
