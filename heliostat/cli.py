"""The command line: a table of commands, each of which is loaded only when it is used."""

import argparse
import importlib
import sys

from heliostat import __version__
from heliostat.errors import HeliostatError
from heliostat.modules import order_search_path

COMMANDS = {
    "train": "train the model that a config file describes",
    "torchrun": "run a script for torchrun, unchanged, on Ray workers",
    "sweep": "search for the best config with many trials",
    "evaluate": "measure a finished run on a split of its dataset",
    "predict": "apply a finished run to new input",
    "runs": "list the runs and sweeps in a storage folder",
    "report": "draw the report of a run or a sweep again, finished or not",
    "dataset": "build, show and verify datasets",
    "profile": "write, show and check the profiles of clusters",
    "up": "create or update the cluster of a profile",
    "diff": "show what up would change",
    "status": "show a cluster's groups, nodes, jobs and cost",
    "cost": "show the cost of a cluster's nodes so far",
    "doctor": "check everything that a cluster needs, with fixes",
    "submit": "run any command as a job on a cluster",
    "logs": "show the output of a job",
    "stop": "stop a job after a checkpoint",
    "session": "open a cluster's dashboard and Ray Client on this machine",
    "cron": "list and delete scheduled runs (made by train --cron)",
    "down": "delete a cluster; its runs stay in storage",
    "render": "print a profile's Kubernetes documents",
}
"""The help line of each command; ``heliostat/commands/NAME.py`` has its ``configure(parser)`` and ``run(args)``."""

SUBCOMMANDS = {
    "sweep": {"show": "show the trials of a sweep, live while it runs"},
    "runs": {
        "compare": "show the settings in which runs differ and their results, side by side",
        "pull": "bring a run, its report, checkpoints or logs from a cluster's storage",
    },
}
"""Second words of commands that also work without one; ``heliostat/commands/NAME_WORD.py`` has their functions."""

EXAMPLE = "example: heliostat train workloads/configs/digits.yaml --set optimizer.lr=0.01"


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input, 1 failed, 130 stopped, 75 contact lost."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="heliostat",
        description="Train models on autoscaling Ray clusters, from a laptop to Kubernetes.",
        epilog=EXAMPLE,
    )
    parser.add_argument("--version", action="version", version=f"heliostat {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, help_line in COMMANDS.items():
        command = commands.add_parser(name, help=help_line, description=help_line)
        if name in argv[:1]:
            _configure(command, name, *argv[1:2])
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    order_search_path()
    try:
        return int(args.run(args))
    except HeliostatError as error:
        print("\n  ".join([f"heliostat: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("heliostat: stopped", file=sys.stderr)
        return 130


def _configure(parser: argparse.ArgumentParser, name: str, word: str = "") -> None:
    """Add the options of a command to its parser, or those of the subcommand that ``word`` names."""
    module = name
    if help_line := SUBCOMMANDS.get(name, {}).get(word):
        parser = parser.add_subparsers().add_parser(word, description=help_line)
        module = f"{name}_{word}"
    loaded = importlib.import_module(f"heliostat.commands.{module}")
    loaded.configure(parser)
    parser.set_defaults(run=loaded.run, parser=parser)
