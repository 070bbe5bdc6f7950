"""heliostat model add: adds the model of a run to the registry."""

import argparse

from heliostat.commands import RUN_HELP
from heliostat.commands.model.export import FORMATS
from heliostat.commands.model.registry import add_options, add_why, metric_of, name_of, on_cluster, registry_of, say


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="RUN", help=f"{RUN_HELP}; of a sweep its best trial")
    parser.add_argument("--name", help="the name of the model (default: that of the run)")
    parser.add_argument("--alias", choices=("candidate", "champion"), default="", help="an alias to move to the new version")
    parser.add_argument("--to", choices=FORMATS, help="the format (default: lightgbm for trees, else torch)")
    add_why(parser)
    add_options(parser, "export")
    parser.epilog = "example: heliostat model add churn-2 --name churn --alias candidate"


def run(args: argparse.Namespace) -> int:
    given = (("--name", args.name), ("--alias", args.alias), ("--to", args.to), ("--why", args.why))
    options = [part for pair in given if pair[1] for part in pair]
    if (code := on_cluster(args, ["model", "add"], options)) is not None:
        return code
    from heliostat.commands.terminal.phases import phase
    from heliostat.console import print_json

    with phase(f"adding the model of {args.run_name}", quiet=args.json):
        from heliostat.commands.job.on_worker import on_worker
        from heliostat.commands.model.export import folder_of_trained
        from heliostat.workloads.registry.add import add
        from heliostat.workloads.registry.registry import document

        folder = folder_of_trained(args.run_name, args.storage)
        name = name_of(args)
        registry = registry_of(args)
        before = registry.revision(name)
        version = on_worker(
            f"the model of {args.run_name} could not be added", 0,
            add, registry, folder, name, args.to, args.alias, args.why,
        )  # fmt: skip
    listed = next(listed for listed in registry.versions(name) if listed.version.number == version.number)
    if args.json:
        print_json(document(listed))
        return 0
    aliases = f" ({', '.join(listed.aliases)})" if listed.aliases else ""
    known = "is already" if registry.revision(name) == before else "is"
    say(f"step {version.manifest.step} of {version.manifest.run_name} {known} {version}{aliases}: {metric_of(version)}")
    say(f"  {version.model}, {version.manifest.bytes / 1e6:.1f} MB, format {version.manifest.format}")
    if "champion" not in listed.aliases:
        say(f"  heliostat model promote {version} makes it the champion")
    return 0
