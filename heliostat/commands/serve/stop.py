"""heliostat serve stop: ends a service on this machine or on a cluster, after the requests that it works on."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the service")
    parser.add_argument("--on", metavar="PROFILE", help="the cluster of a profile that serves it")
    parser.epilog = "examples: heliostat serve stop churn; heliostat serve stop churn --on gpu"


def run(args: argparse.Namespace) -> int:
    from heliostat.console import out

    if args.on:
        from heliostat.commands.serve.on_cluster import stop_there

        stop_there(args.on, args.name)
        out.print(f"stopped {args.name} on {args.on}", highlight=False, markup=False, soft_wrap=True)
        return 0
    from heliostat.workloads.serve import services

    record = services.find(args.name)
    services.stop(record)
    out.print(f"stopped {record.name}, which was served at {record.url}", highlight=False, markup=False, soft_wrap=True)
    return 0
