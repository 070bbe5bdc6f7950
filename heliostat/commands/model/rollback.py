"""heliostat model rollback: makes the champion before this one the champion again."""

import argparse

from heliostat.commands.model.registry import add_options, add_why, on_cluster, registry_of, say


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="NAME", help="a model")
    add_why(parser)
    add_options(parser, "rollback")
    parser.epilog = 'example: heliostat model rollback churn --why "alarms since Monday"'


def run(args: argparse.Namespace) -> int:
    if (code := on_cluster(args, ["model", "rollback"], ["--why", args.why] if args.why else [])) is not None:
        return code
    from heliostat.console import print_json

    version, before = registry_of(args).rollback(args.run_name, args.why)
    if args.json:
        print_json({"name": version.name, "champion": version.number, "before": before, "checksum": version.checksum})
    else:
        say(f"{version} is the champion again; it was {version.name}@{before}")
    return 0
