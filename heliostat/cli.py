"""The front door: a table of commands, each loaded only when it is the one asked for."""

import argparse
import importlib
import sys

from heliostat import __version__
from heliostat.errors import HeliostatError
from heliostat.modules import settle

COMMANDS = {
    "train": "train the model that a config file describes",
    "torchrun": "run a script for torchrun, unchanged, on Ray workers",
    "sweep": "search for the best config with many trials, or show them",
    "evaluate": "measure a finished run on a split of its dataset",
    "predict": "apply a finished run to new input",
    "runs": "list the runs in a storage folder",
    "dataset": "build, show and verify datasets",
    "profile": "write, show and check the profiles of clusters",
    "up": "bring up the cluster of a profile, or change it",
    "diff": "show what up would change",
    "status": "show a cluster's groups, nodes, jobs and cost",
    "cost": "show what a cluster's nodes have cost so far",
    "doctor": "check everything that a cluster needs, and say how to mend it",
    "submit": "run any command as a job on a cluster",
    "logs": "show what a job prints",
    "stop": "stop a job, with a checkpoint",
    "session": "open a cluster's dashboard and Ray Client on this machine",
    "cron": "list and delete nightly runs (heliostat train --cron makes them)",
    "down": "delete a cluster; the runs stay",
    "render": "print a profile's Kubernetes documents",
}
"""A line a command; ``heliostat/commands/NAME.py`` has its ``configure(parser)`` and ``run(args)``."""

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
            module = importlib.import_module(f"heliostat.commands.{name}")
            module.configure(command)
            command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    settle()
    try:
        return int(args.run(args))
    except HeliostatError as error:
        print("\n  ".join([f"heliostat: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("heliostat: stopped", file=sys.stderr)
        return 130
