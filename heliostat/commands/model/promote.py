"""heliostat model promote: makes a version of a model its champion."""

import argparse

from heliostat.commands.model.registry import add_options, add_why, on_cluster, registry_of, say


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="NAME[@VERSION]", help="a model, of which the candidate is promoted, or a version")
    parser.add_argument(
        "--expect", metavar="VERSION", help="refuse if the champion is another version by now; none: if there is one"
    )
    add_why(parser)
    add_options(parser, "promotion")
    parser.epilog = 'example: heliostat model promote churn@3 --expect 2 --why "gate passed, ticket 41"'


def run(args: argparse.Namespace) -> int:
    expected = _expected(args.expect)
    given = (("--expect", args.expect), ("--why", args.why))
    if (code := on_cluster(args, ["model", "promote"], [part for pair in given if pair[1] for part in pair])) is not None:
        return code
    from heliostat.console import print_json

    registry = registry_of(args)
    version, before = registry.promote(args.run_name, args.why, *expected)
    if args.json:
        print_json({"name": version.name, "champion": version.number, "before": before, "checksum": version.checksum})
    elif before == version.number:
        say(f"{version} is the champion already")
    else:
        was = "; there was none before" if before is None else f"; before it was {version.name}@{before}"
        say(f"{version} is the champion{was}")
    return 0


def _expected(text: str | None) -> list[int | None]:
    """The argument for the registry; none for the default.

    Raises:
        UserError: it is no version.
    """
    from heliostat.errors import UserError

    if text is None:
        return []
    if text == "none":
        return [None]
    if text.isascii() and text.isdigit():
        return [int(text)]
    raise UserError(f"--expect is {text!r}, which is no version", "give its number, or none")
