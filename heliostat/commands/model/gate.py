"""heliostat model gate: whether the model of a run may replace the champion; exit code 0 or 1."""

import argparse
from pathlib import Path

from heliostat.commands import RUN_HELP
from heliostat.commands.model.registry import add_options, name_of, on_cluster, registry_of, say


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="RUN", help=f"the candidate: {RUN_HELP}; of a sweep its best trial")
    parser.add_argument("--against", default="champion", metavar="VERSION", help="champion (default), candidate or a number")
    parser.add_argument("--name", help="the name of the model (default: that of the run)")
    parser.add_argument("--metric", default="", help="the metric that decides (default: that of the run)")
    parser.add_argument(
        "--margin", type=float, default=0.0, metavar="X",
        help="pass a candidate that is at most so much worse, such as 0.01 (default: 0, it must be better)",
    )  # fmt: skip
    parser.add_argument("--by", action="append", default=[], metavar="COLUMN", help="it may be worse for no value of a column")
    parser.add_argument("--slower", type=float, default=2.0, metavar="X", help="most times the p95 latency (default: 2)")
    parser.add_argument("--larger", type=float, default=2.0, metavar="X", help="most times the size (default: 2)")
    parser.add_argument("--markdown", metavar="FILE", help="write the result as Markdown, such as for a pull request")
    add_options(parser, "comparison")
    parser.epilog = "example: heliostat model gate churn-2 --name churn --margin 0.01 --by country --markdown gate.md"


def run(args: argparse.Namespace) -> int:
    from heliostat.errors import UserError

    if args.on and args.markdown:
        raise UserError("--markdown is written on this machine, but --on runs the gate on a cluster", "use --json there")
    if (code := on_cluster(args, ["model", "gate"], _options(args))) is not None:
        return code
    from heliostat.commands.terminal.phases import phase
    from heliostat.console import print_json, print_table
    from heliostat.folder import Folder
    from heliostat.workloads.registry.registry import parsed

    registry = registry_of(args)
    name = name_of(args)
    if parsed(name)[1]:
        raise UserError(f"{name!r} has a version, but the version is that of --against", f"write --name {parsed(name)[0]}")
    with phase(f"comparing {args.run_name} with {name}@{args.against}", quiet=args.json):
        from heliostat.commands.job.on_worker import on_worker
        from heliostat.commands.model.export import folder_of_trained
        from heliostat.workloads.registry.gate.gate import Terms, gate
        from heliostat.workloads.registry.gate.report import heading, markdown, sentences, table

        terms = Terms(args.metric, args.margin, tuple(args.by), args.slower, args.larger)
        registry.resolve(f"{name}@{args.against}")  # before what takes long
        folder = folder_of_trained(args.run_name, args.storage)
        what = f"{args.run_name} could not be compared"
        found = on_worker(what, 0, gate, registry, str(folder), f"{name}@{args.against}", terms)
    if args.markdown:
        path = Path(args.markdown).expanduser().absolute()
        Folder.at(path.parent).write(path.name, markdown(found).encode())
    if args.json:
        print_json(found)
    else:
        say(heading(found))
        for sentence in sentences(found):
            say(f"  {sentence}")
        print_table(*table(found))
    return 0 if found["passed"] else 1


def _options(args: argparse.Namespace) -> list[str]:
    """The options of this command for a job."""
    given = [("--against", args.against), ("--name", args.name), ("--metric", args.metric), ("--margin", f"{args.margin:g}")]
    given += [("--slower", f"{args.slower:g}"), ("--larger", f"{args.larger:g}"), *(("--by", each) for each in args.by)]
    return [part for pair in given if pair[1] for part in pair]
