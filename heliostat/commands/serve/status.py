"""heliostat serve status: the services that run on this machine, or on a cluster."""

import argparse
from typing import Any

DIGITS = 12
"""Of a checksum, in a table."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="a service (default: all)")
    parser.add_argument("--on", metavar="PROFILE", help="those on the cluster of a profile")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = "examples: heliostat serve status; heliostat serve status --on gpu"


def run(args: argparse.Namespace) -> int:
    return _there(args) if args.on else _here(args)


def _here(args: argparse.Namespace) -> int:
    from heliostat.console import err, out, print_json, print_table
    from heliostat.workloads.serve import services

    found = [services.find(args.name)] if args.name else services.running()
    if args.json:
        print_json([record.model_dump(mode="json") for record in found])
    elif not found:
        out.print("no service runs; heliostat serve RUN starts one")
    else:
        columns = ("service", "model", "version", "checksum", "URL", "process", "token", "of")
        rows = [(r.name, r.reference, r.version, r.checksum[:DIGITS], r.url, str(r.pid), r.token_file, r.source) for r in found]
        print_table(columns, rows)
        for record in found:
            if record.problem:
                err.print(f"heliostat: {record.name}: the new version cannot be served: {record.problem}", markup=False)
    return 0


def _there(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from heliostat.commands.serve.on_cluster import states
    from heliostat.console import err, out, print_json, print_table

    found = states(args.on, args.name)
    if args.json:
        print_json([asdict(state) for state in found])
    elif not found:
        out.print(f"{args.on} serves nothing; heliostat serve RUN --on {args.on} starts a service", highlight=False)
    else:
        rows = [(s.name, s.status.lower(), f"{s.replicas} of {s.wanted}", *_served(s), s.url) for s in found]
        print_table(("service", "status", "replicas", "model", "version", "checksum", "URL"), rows)
        for state in found:
            unknown = f"its version is not known: {state.unknown}" if state.unknown else ""
            for text in filter(None, (state.message, unknown)):
                err.print(f"heliostat: {state.name}: {text}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _served(state: Any) -> tuple[str, str, str]:
    """The cells of the model, the version and the checksum."""
    if not state.served:
        return state.model, "unknown" if state.unknown else "", ""
    columns = zip(*((each.reference, each.version, each.checksum[:DIGITS]) for each in state.served), strict=True)
    model, version, checksum = (", ".join(dict.fromkeys(column)) for column in columns)
    return model, version, checksum
