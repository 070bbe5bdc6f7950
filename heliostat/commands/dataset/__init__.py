"""heliostat dataset build|info|verify: builds, describes and verifies datasets."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from heliostat.commands.job.options import add_cluster_options, add_preview, refuse_cluster_options

if TYPE_CHECKING:
    from heliostat.datasets.sources import Source


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="build|info|verify", required=True)
    build = verbs.add_parser("build", help="build a dataset from a source", description="build a dataset from a source")
    build.add_argument(
        "source",
        metavar="SOURCE",
        help="digits, breast-cancer, python-stdlib, text, images, table or huggingface, or module:Name of your own",
    )
    build.add_argument("out", metavar="OUT", help="the folder or URI to write")
    build.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the source, such as path=photos"
    )
    add_cluster_options(build, "build")
    add_preview(build)
    build.epilog = "example: heliostat dataset build table data/wine --set path=wine.csv --set target=quality"
    for verb, help_line in (
        ("info", "show the samples, columns and size of a dataset, and warn of leaks, copies and imbalance"),
        ("verify", "read every byte and compare the checksums"),
    ):
        shown = verbs.add_parser(
            verb, help=help_line, description=help_line, epilog=f"example: heliostat dataset {verb} data/wine"
        )
        shown.add_argument("out", metavar="DATASET", help="the folder or URI of a dataset")
    parser.epilog = "example: heliostat dataset build digits data/digits"
    for verb_parser in verbs.choices.values():
        verb_parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    from heliostat.commands.dataset.info import show
    from heliostat.datasets import Dataset

    if args.verb == "build":
        refuse_cluster_options(args)
        if args.on:
            return _build_on_cluster(args)
        from heliostat.commands.dataset.building import building
        from heliostat.config import assignments
        from heliostat.datasets import build
        from heliostat.datasets.sources import open_source

        source = open_source(args.source, assignments(args.set))
        with building(source, quiet=args.json), _tasks(source):
            dataset = build(source, args.out)
        show(args.out, dataset, args.json, inspects=False)
        return 0
    dataset = Dataset.open(args.out)
    if args.verb == "info":
        show(args.out, dataset, args.json)
        return 0
    return _verify(dataset, args)


@contextmanager
def _tasks(source: "Source") -> Iterator[None]:
    """Read a table in tasks of the Ray of RAY_ADDRESS, if there is one with CPUs, such as in a job on a cluster."""
    if not (address := os.environ.get("RAY_ADDRESS")) or source.name != "table":
        yield
        return
    from heliostat.cluster.in_process import connection
    from heliostat.workloads.ray_tasks import cpus, in_tasks

    with connection(address):
        source.tasks = in_tasks if cpus() else None
        yield


def _build_on_cluster(args: argparse.Namespace) -> int:
    """Submit the same command as a job on the profile's cluster, next to the data; its Ray tasks read a table in parallel.

    Raises:
        UserError: the source or an option is wrong, or the job would not find the data; nothing has been sent.
    """
    from heliostat.cluster.profile import find
    from heliostat.commands.job import needed, sending
    from heliostat.commands.job.on_cluster import HELIOSTAT, place_there, send_command
    from heliostat.config import assignments
    from heliostat.datasets.sources import find_source, open_source
    from heliostat.folder import expanded
    from heliostat.workloads.plan import is_absolute

    profile, options = find(args.on), assignments(args.set)
    find_source(args.source, options)
    values = sending.variables_to_send(args.env)
    variables = needed.job_variables(profile, values)
    out = place_there(profile, args.out, "OUT", variables)
    needed.check_paths(profile, needed.data_paths({"source": args.source, "options": options}), variables)
    files = sending.files_to_send()
    if "path" in options and not is_absolute(expanded(options["path"], variables, "dataset.options.path")):
        source = open_source(args.source, options)
        needed.check_sent(files, {"dataset.options.path": [file.path for file in source.files()]})
    argv = [*HELIOSTAT, "dataset", "build", args.source, out]
    argv += [part for option in args.set for part in ("--set", option)] + ["--json"] * args.json
    return send_command(profile, f"build-{args.source}", argv, args, files, values)


def _verify(dataset: Any, args: argparse.Namespace) -> int:
    from heliostat.console import out, print_json

    wrong = dataset.verify()
    if args.json:
        print_json({"uri": args.out, "ok": not wrong, "wrong": wrong})
    else:
        out.print("\n".join(wrong) or f"{args.out} is undamaged", highlight=False, markup=False, soft_wrap=True)
    return 1 if wrong else 0
