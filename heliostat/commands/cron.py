"""heliostat cron: the scheduled runs of a profile."""

import argparse

from heliostat.commands.live import add_profile


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    parser.add_argument("--delete", metavar="NAME", help="delete these scheduled runs, including a running one")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = 'heliostat train CONFIG --on PROFILE --cron "0 2 * * *" creates them'


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.kube.kuberay import KubeRay
    from heliostat.cluster.profile import find
    from heliostat.cluster.targets import scheduled
    from heliostat.console import err, out, print_json, print_table

    profile = find(args.profile, args.set)
    kube = KubeRay(namespace=profile.namespace)
    if args.delete:
        scheduled.delete(kube, profile, args.delete)
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
    return 0
