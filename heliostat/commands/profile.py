"""heliostat profile init|show|check: creates, shows and checks the files that describe clusters."""

import argparse
import re
from pathlib import Path
from typing import Any

from heliostat.commands.live import add_profile

WORDS = {
    "platform": "kubernetes, or local for Ray processes on this machine",
    "head": "the pod of Ray's head; tasks that need a CPU do not run there",
    "groups": "worker groups: identical pods each, as many as the work needs",
    "name": "the group's name, as in --set groups.NAME.max=4",
    "market": "on-demand, or spot for cheaper pods that can be preempted",
    "max": "the most pods, which limits the cost",
    "idle_seconds": "a pod is deleted after so many seconds without work",
    "tolerations": "taints of nodes on which its pods may run",
    "storage": "where runs are kept: {claim: runs, size: 100Gi}, or {uri: s3://bucket/team}",
    "uri": "a folder, or an object store such as s3://bucket/team",
    "idle_shutdown_seconds": "seconds without work after which the cluster is suspended, head included; null: never",
}
"""Comments on the keys of a new file, where the field's own description is only for messages."""
COLUMN = 36
"""The column of the comments, except after longer lines."""
KEY = re.compile(r"(?P<indent> *)(?P<item>- )?(?P<key>\w+):")


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="init|show|check", required=True)
    init = verbs.add_parser("init", help="write a new profile", description="Write a new profile, with a comment on each line.")
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
        add_profile(verbs.add_parser(verb, help=help_line, description=help_line))
    verbs.choices["show"].add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = "example: heliostat profile init mine --from spot"


def run(args: argparse.Namespace) -> int:
    return {"init": _init, "show": _show, "check": _check}[args.verb](args)


def _init(args: argparse.Namespace) -> int:
    from heliostat.cluster.profile import BUNDLED, Profile, find
    from heliostat.config import nearest, validate
    from heliostat.console import out
    from heliostat.errors import UserError

    bundled = {path.stem: path for path in BUNDLED.glob("*.yaml")}
    if args.source not in bundled:
        raise UserError(f"--from is {args.source}, which is not a bundled profile", nearest(args.source, bundled))
    validate({**find(str(bundled[args.source])).model_dump(), "name": args.name}, Profile)
    folder = Path("cluster/profiles")
    path = folder / f"{args.name}.yaml" if folder.is_dir() else Path(f"{args.name}.yaml")
    try:
        with path.open("x") as file:
            file.write(commented(bundled[args.source].read_text()))
    except FileExistsError:
        raise UserError(f"{path} already exists; it was not changed", "choose another name") from None
    out.print(
        f"wrote {path}: adapt it, then\n  heliostat profile check {args.name}\n  heliostat up {args.name}", highlight=False
    )
    return 0


def commented(text: str) -> str:
    """A profile's text with a comment at each key: its meaning and its default."""
    from heliostat.cluster.profile import Head, Profile, Storage, WorkerGroup

    owners: dict[str, Any] = {"head": Head, "groups": WorkerGroup, "storage": Storage}
    lines, parent = [], ""
    for line in text.splitlines():
        if found := KEY.match(line):
            nested = bool(found["indent"])
            parent = parent if nested else found["key"]
            line = f"{line:<{COLUMN}}  # {_meaning(found['key'], owners[parent] if nested else Profile)}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _meaning(key: str, owner: Any) -> str:
    field = owner.model_fields[key]
    meaning = WORDS.get(key) or field.description
    default = None if field.is_required() else field.default
    return f"{meaning} (default: {default})" if isinstance(default, str | int | float) else meaning


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
