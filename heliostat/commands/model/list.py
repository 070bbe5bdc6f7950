"""heliostat model list: the models of a storage, or the versions of one."""

import argparse
from typing import Any

from heliostat.commands.model.registry import add_options, metric_of, on_cluster, registry_of


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="NAME", nargs="?", default="", help="a model, whose log is shown, too")
    add_options(parser, "list")
    parser.epilog = "example: heliostat model list churn"


def run(args: argparse.Namespace) -> int:
    if args.on and not args.run_name:
        from heliostat.errors import UserError

        raise UserError("model list --on needs the name of a model", f"write heliostat model list NAME --on {args.on}")
    if (code := on_cluster(args, ["model", "list"], [])) is not None:
        return code
    from heliostat.console import err, print_json, print_table
    from heliostat.workloads.registry.registry import document

    registry = registry_of(args)
    found = {name: registry.versions(name) for name in ([args.run_name] if args.run_name else registry.names())}
    history = registry.history(args.run_name) if args.run_name else []
    if args.json:
        versions = [document(listed) for all_of in found.values() for listed in all_of]
        log = [entry.model_dump(mode="json", exclude={"state"}) for entry in history]
        print_json({"versions": versions, **({"log": log} if args.run_name else {})})
        return 0
    if not found:
        err.print(
            f"no models in {registry.folder}; heliostat model add RUN adds that of a run", highlight=False, soft_wrap=True
        )
        return 0
    print_table(
        ("model", "aliases", "metric", "run", "step", "added", "by", "format", "MB"),
        [_row(listed) for all_of in found.values() for listed in reversed(all_of)],
        fit=True,
    )
    if history:
        _print_log(history)
    return 0


def _row(listed: Any) -> list[Any]:
    from heliostat.console import minute

    version = listed.version
    manifest = version.manifest
    return [
        str(version), ", ".join(listed.aliases), metric_of(version), manifest.run_name, manifest.step, minute(manifest.added),
        manifest.by, manifest.format, manifest.bytes / 1e6,
    ]  # fmt: skip


def _print_log(history: list[Any]) -> None:
    from heliostat.console import minute, print_table

    print_table(
        ("log", "what", "version", "champion before", "by", "why"),
        [[minute(e.at), e.what, str(e.version), "" if e.before is None else str(e.before), e.by, e.why] for e in history],
        fit=True,
    )
