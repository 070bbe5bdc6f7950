"""heliostat doctor: checks everything that a cluster needs, with a fix for each problem."""

import argparse
import dataclasses
from typing import Any

from heliostat.wording import counted

STYLES = {"ok": "green", "problem": "bold red", "unknown": "yellow"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "profile", nargs="?", help="a name in cluster/profiles, or the path of a file; without it only what all profiles need"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, such as groups.gpu.max=4"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = "exit code: 0 without problems, else 1; example: heliostat doctor gpu"


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.doctor import examine
    from heliostat.console import print_json

    findings = list(examine(_profile(args)))
    problems = sum(finding.state == "problem" for finding in findings)
    if args.json:
        print_json({"problems": problems, "checks": [dataclasses.asdict(finding) for finding in findings]})
    else:
        _show(findings, problems)
    return 1 if problems else 0


def _profile(args: argparse.Namespace) -> Any:
    from heliostat.cluster.profile import find
    from heliostat.errors import UserError

    if args.profile:
        return find(args.profile, args.set)
    if args.set:
        raise UserError("--set is given, but no profile", "name the profile first: heliostat doctor gpu --set ...")
    return None


def _show(findings: list[Any], problems: int) -> None:
    from rich.table import Table
    from rich.text import Text

    from heliostat.console import out

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        what = finding.what + (f"\nfix: {finding.fix}" if finding.fix else "")
        table.add_row(Text(finding.state, STYLES[finding.state]), Text(finding.check), Text(what))
    out.print(table)
    unknown = sum(finding.state == "unknown" for finding in findings)
    hidden = f", and {unknown} unknown: cannot be checked from here" if unknown else ""
    out.print(f"\n{counted(problems, 'problem') if problems else 'no problem'}{hidden}", highlight=False)
