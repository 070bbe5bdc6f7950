"""heliostat model diff: how two versions of a model differ: config, data, metrics."""

import argparse

from heliostat.commands.model.registry import MODEL_HELP, add_options, on_cluster, registry_of, say


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="OLD", help=MODEL_HELP)
    parser.add_argument("new", metavar="NEW", help="the other")
    add_options(parser, "comparison")
    parser.epilog = "example: heliostat model diff churn@champion churn@candidate"


def run(args: argparse.Namespace) -> int:
    if (code := on_cluster(args, ["model", "diff"], [args.new])) is not None:
        return code
    from heliostat.console import print_json, print_table
    from heliostat.difference import written
    from heliostat.workloads.registry.compare import compare

    registry = registry_of(args)
    old, new = registry.resolve(args.run_name), registry.resolve(args.new)
    found = compare(old, new)
    if args.json:
        changes = {key: [list(change) for change in found[key]] for key in ("config", "data", "origin")}
        print_json({"old": str(old), "new": str(new), **changes, "metrics": found["metrics"]})
        return 0
    for title in ("config", "data", "origin"):
        say(f"{title}: {'' if found[title] else 'the same'}".rstrip())
        for path, before, after in found[title]:
            say(f"  {path}: {written(before)} -> {written(after)}")
    print_table(
        ("metric", str(old), str(new), "difference"),
        [[name, *(("-" if v is None else f"{v:.4f}") for v in values)] for name, values in found["metrics"].items()],
    )
    return 0
