"""heliostat diff: shows what `up` would change."""

import argparse

from heliostat.commands.terminal.live import add_profile, target_of


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    parser.add_argument(
        "--adopt", action="store_true", help="show what taking over a cluster of this name would change, see heliostat up"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = (
        "example: heliostat diff gpu --set groups.gpu.max=4. Defaults of the API server and fields of the autoscaler are not "
        "shown: right after `up` there is no difference."
    )


def run(args: argparse.Namespace) -> int:
    from heliostat.console import err, out, print_json

    target = target_of(args)
    if target.profile.platform == "local":
        changes = target.changes()
        lines = [str(change) for change in changes]
        old: list[str] = [target.name] if changes else []
    else:
        steps = target.plan(args.adopt)
        lines = [f"{step.title}: {change}" for step in steps for change in step.shown]
        old = [pod["metadata"]["name"] for pod in target.outdated(steps)]
    if args.json:
        print_json({"changes": lines, "replaces": old})
        return 0
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    if old:
        out.print(f"pods that would be replaced: {', '.join(old)}", highlight=False, soft_wrap=True)
    if not lines and not old:
        err.print(f"{target.name} matches the profile", highlight=False)
    return 0
