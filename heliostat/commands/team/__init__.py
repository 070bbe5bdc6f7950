"""heliostat team apply|diff|show: gives a team its namespace, rights, share of GPUs and queue."""

import argparse
from typing import Any

VERBS = {
    "apply": "create or update what a team has: namespace, rights, quota, queue",
    "diff": "show what apply would change",
    "show": "show who is in a team, and what it uses now",
}
EXAMPLE = "example: heliostat team apply vision --set gpus=8"


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="apply|diff|show", required=True)
    for verb, help_line in VERBS.items():
        sub = verbs.add_parser(verb, help=help_line, description=help_line, epilog=EXAMPLE.replace("apply", verb))
        sub.add_argument("team", help="a name, such as vision, in cluster/teams or the working directory, or a file's path")
        sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, such as gpus=8")
    for verb in ("apply", "diff"):
        verbs.choices[verb].add_argument(
            "--adopt", action="store_true", help="take over objects that no team has, such as a namespace that exists"
        )
    verbs.choices["apply"].add_argument("--yes", action="store_true", help="change what exists without asking")
    verbs.choices["apply"].add_argument("--force", action="store_true", help="take over fields that another manager has set")
    for verb in ("diff", "show"):
        verbs.choices[verb].add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = EXAMPLE


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.targets.team import kube_of
    from heliostat.cluster.team import find

    team = find(args.team, args.set)
    return {"apply": _apply, "diff": _diff, "show": _show}[args.verb](args, team, kube_of(team))


def _apply(args: argparse.Namespace, team: Any, kube: Any) -> int:
    from heliostat.cluster.documents.ownership import owner_of
    from heliostat.cluster.kube.steps import applied
    from heliostat.cluster.targets.team import plan
    from heliostat.commands.terminal.live import confirm, note, show
    from heliostat.console import out

    steps = plan(team, kube, args.adopt)
    changed = [f"{step.title}: {change}" for step in steps if step.live for change in step.shown]
    for line in changed:
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    if adopted := [" ".join(filter(None, [step.title, owner_of(step.live)])) for step in steps if step.live and step.adopts]:
        confirm(f"{' and '.join(adopted)} will be of this team, with the changes above", args.yes)
    elif changed:
        confirm(f"this changes what {team.name} has, as above", args.yes)
    show(applied(kube, steps, args.force))
    if changed or any(step.live is None for step in steps):
        note(kube, "team apply", team.name)
    out.print(f"{team.name} has the namespace {team.place}", highlight=False)
    return 0


def _diff(args: argparse.Namespace, team: Any, kube: Any) -> int:
    from heliostat.cluster.targets.team import plan
    from heliostat.console import err, out, print_json

    lines = [f"{step.title}: {change}" for step in plan(team, kube, args.adopt) for change in step.shown]
    if args.json:
        print_json({"changes": lines})
        return 0
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    if not lines:
        err.print(f"{team.name} matches its file", highlight=False)
    return 0


def _show(args: argparse.Namespace, team: Any, kube: Any) -> int:
    from dataclasses import asdict

    from heliostat.cluster.targets.team import standing
    from heliostat.console import out, print_json, print_table

    now = standing(team, kube)
    members = [{"who": each.user or each.group or each.service_account, "may": each.may} for each in team.members]
    if args.json:
        print_json(
            {
                "name": team.name,
                "namespace": team.place,
                "members": members,
                "budget": team.budget.limits if team.budget else None,
                **asdict(now),
            }
        )
        return 0
    print_table(("member", "may"), [[*each.values()] for each in members])
    print_table(("resource", "used", "at most"), [(use.resource, use.used, use.most) for use in now.uses])
    if team.budget:
        limits = " and ".join(f"${limit:g} a {period}" for period, limit in team.budget.limits.items())
        out.print(f"budget {limits} for all its clusters; heliostat status PROFILE says what is spent", highlight=False)
    if team.queue:
        known = now.admitted is not None
        said = f"{now.admitted} admitted, {now.pending} waiting" if known else "what is in it is not known here"
        out.print(f"queue {team.queue.name}: {said}", highlight=False)
    return 0
