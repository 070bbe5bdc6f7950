"""heliostat serve stop: ends a service on this machine, after the requests that it works on."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the service")
    parser.epilog = "example: heliostat serve stop churn"


def run(args: argparse.Namespace) -> int:
    from heliostat.console import out
    from heliostat.workloads.serve import services

    record = services.find(args.name)
    services.stop(record)
    out.print(f"stopped {record.name}, which was served at {record.url}", highlight=False, markup=False, soft_wrap=True)
    return 0
