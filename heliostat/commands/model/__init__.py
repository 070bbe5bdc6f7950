"""heliostat model: what becomes of the models of finished runs; its subcommands are in ``heliostat/commands/model/WORD.py``."""

import argparse

WORDS = "list, add, export, gate, promote, rollback, diff"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = f"heliostat model [{' | '.join(WORDS.split(', '))}] ... (heliostat model list --help)"
    parser.epilog = "example: heliostat model add churn --alias candidate"


def run(args: argparse.Namespace) -> int:
    from heliostat.errors import UserError

    raise UserError(f"heliostat model needs one of: {WORDS}", "write heliostat model list, or heliostat model add RUN")
