"""heliostat profile init|show|check|import: creates, shows, checks and imports the files that describe clusters."""

import argparse

from heliostat.commands.terminal.live import add_profile


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="init|show|check|import", required=True)
    init = verbs.add_parser(
        "init",
        help="write a new profile",
        description="write a new profile, with a comment on each line",
        epilog="example: heliostat profile init mine --from spot",
    )
    init.add_argument(
        "name", metavar="NAME", help="the cluster's name; the file is NAME.yaml, in cluster/profiles if that folder exists"
    )
    init.add_argument(
        "--from",
        dest="source",
        default="gpu",
        metavar="PROFILE",
        help="the profile to copy: gpu, spot, research or local (default: gpu)",
    )
    for verb, help_line in (
        ("show", "show a profile with all its defaults, and what it costs an hour"),
        ("check", "check a profile by the operator's rules"),
    ):
        example = f"example: heliostat profile {verb} gpu --set groups.gpu.max=4"
        add_profile(verbs.add_parser(verb, help=help_line, description=help_line, epilog=example))
    verbs.choices["show"].add_argument("--json", action="store_true", help="print one JSON document")
    from heliostat.commands.profile import importing as profile_import

    profile_import.configure(verbs.add_parser("import", help=profile_import.HELP, description=profile_import.HELP))
    parser.epilog = "example: heliostat profile init mine --from spot"


def run(args: argparse.Namespace) -> int:
    from heliostat.commands.profile import importing as profile_import

    return {"init": _init, "show": _show, "check": _check, "import": profile_import.run}[args.verb](args)


def _init(args: argparse.Namespace) -> int:
    from heliostat.cluster.profile import BUNDLED, Profile, find
    from heliostat.commands.profile.file import new_profile, write_profile
    from heliostat.config import nearest, validate
    from heliostat.console import out
    from heliostat.errors import UserError

    bundled = {path.stem: path for path in BUNDLED.glob("*.yaml")}
    if args.source not in bundled:
        raise UserError(f"--from is {args.source}, which is not a bundled profile", nearest(args.source, bundled))
    validate({**find(str(bundled[args.source])).model_dump(), "name": args.name}, Profile)
    path = write_profile(args.name, new_profile(args.source))
    out.print(
        f"wrote {path}: adapt it, then\n  heliostat profile check {args.name}\n  heliostat up {args.name}", highlight=False
    )
    return 0


def _show(args: argparse.Namespace) -> int:
    from heliostat.cluster.profile import find
    from heliostat.config import dump
    from heliostat.console import out, print_json, print_table

    profile = find(args.profile, args.set)
    pods = [("head", profile.head.price, 1, 1), *((g.name, g.price, g.min, g.max) for g in profile.groups)]
    rows = [(name, price, least, most, price * least, price * most) for name, price, least, most in pods]
    cost = {"min": sum(row[4] for row in rows), "max": sum(row[5] for row in rows)}
    if args.json:
        prices = [{"name": name, "price_per_hour": price, "min": least, "max": most} for name, price, least, most in pods]
        print_json({"profile": profile.model_dump(mode="json"), "pods": prices, "cost_per_hour": cost})
        return 0
    out.print(dump(profile), highlight=False, markup=False, soft_wrap=True)
    columns = ("pods", "price an hour", "min", "max", "an hour at min", "an hour at max")
    print_table(columns, [*rows, ("all", "", "", "", cost["min"], cost["max"])])
    return 0


def _check(args: argparse.Namespace) -> int:
    from heliostat.cluster.documents import validation
    from heliostat.cluster.documents.manifests import documents
    from heliostat.cluster.profile import find
    from heliostat.console import out

    profile = find(args.profile, args.set)
    for document in documents(profile) if profile.platform == "kubernetes" else []:
        validation.check(document)
    out.print(f"{args.profile}: ok", highlight=False)
    return 0
