"""heliostat serve status: the services that run on this machine."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="a service (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = "example: heliostat serve status"


def run(args: argparse.Namespace) -> int:
    from heliostat.console import err, out, print_json, print_table
    from heliostat.workloads.serve import services

    found = [services.find(args.name)] if args.name else services.running()
    if args.json:
        print_json([record.model_dump(mode="json") for record in found])
    elif not found:
        out.print("no service runs; heliostat serve RUN starts one")
    else:
        columns = ("service", "version", "URL", "process", "token", "of")
        print_table(columns, [(r.name, r.version, r.url, str(r.pid), r.token_file, r.source) for r in found])
        for record in found:
            if record.problem:
                err.print(f"heliostat: {record.name}: the new version cannot be served: {record.problem}", markup=False)
    return 0
