"""The command line: a table of commands, each of which is loaded only when it is used."""

import argparse
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from heliostat import __version__
from heliostat.errors import HeliostatError, nearest
from heliostat.modules import order_search_path

COMMANDS = {
    "init": "write a project that trains, or schemas for editors",
    "train": "train the model that a config file describes",
    "torchrun": "run a script for torchrun, unchanged, on Ray workers",
    "sweep": "search for the best config with many trials",
    "evaluate": "measure a finished run on a split of its dataset",
    "predict": "apply a finished run to new input",
    "runs": "list the runs and sweeps in a storage folder",
    "model": "export models, and keep them in a registry with a champion",
    "serve": "answer requests with the model of a finished run",
    "report": "draw the report of a run or a sweep again, finished or not",
    "dataset": "build, show and verify datasets",
    "profile": "write, show and check the profiles of clusters",
    "up": "create or update the cluster of a profile",
    "diff": "show what up would change",
    "status": "show a cluster's groups, nodes, jobs and cost",
    "why": "say why something waits, has ended, is idle or is slow, with fixes",
    "cost": "show what a cluster or a run has cost",
    "plan": "show what a profile would cost for the jobs of a trace",
    "doctor": "check everything that a cluster needs, with fixes",
    "submit": "run any command as a job on a cluster",
    "logs": "show the output of a job",
    "stop": "stop a job after a checkpoint",
    "session": "open a cluster's dashboard and Ray Client on this machine",
    "cron": "list and delete scheduled runs (made by train --cron)",
    "down": "delete a cluster; its runs stay in storage",
    "render": "print a profile's Kubernetes documents",
    "team": "give a team its namespace, rights, share of GPUs and queue",
}
"""The help line of each command; module ``heliostat.commands.NAME`` has its ``configure(parser)`` and ``run(args)``."""

GROUPS = {
    "train": ("init", "train", "sweep", "torchrun"),
    "use what is trained": ("evaluate", "predict", "model", "serve", "runs", "report"),
    "prepare data": ("dataset",),
    "make a cluster": ("profile", "doctor", "up", "diff", "status", "down", "render", "team"),
    "work on it": ("submit", "why", "logs", "stop", "session", "cron"),
    "know what it costs": ("cost", "plan"),
}
"""The commands by what one wants to do, as the help lists them; those that are in none come last."""

SUBCOMMANDS = {
    "sweep": {"show": "show the trials of a sweep, live while it runs"},
    "model": {
        "list": "list the models of a storage, or the versions and the log of one",
        "add": "add the model of a run to the registry",
        "export": "write a run's model in a format that is used without Heliostat",
        "gate": "decide whether the model of a run may replace the champion (exit code 0 or 1)",
        "promote": "make a version of a model its champion",
        "rollback": "make the champion before this one the champion again",
        "drift": "compare what a service is asked with the training data (exit code 0 or 1)",
        "diff": "show how two versions differ: config, data, metrics",
    },
    "serve": {
        "start": "answer requests with the model of a finished run",
        "status": "list the services on this machine, or on a cluster",
        "stop": "end a service, after the requests that it works on",
    },
    "runs": {
        "list": "list the runs and sweeps in a storage folder",
        "show": "show what is known of one run, or the trials of a sweep",
        "compare": "show the settings in which runs differ and their results, side by side",
        "open": "show the runs and sweeps of a storage in the browser, while they go on",
        "pull": "bring a run, its report, checkpoints or logs from a cluster's storage",
        "track": "send a run or a sweep to a tracker, or what is missing there",
    },
}
"""Second words of commands that also work without one; module ``heliostat.commands.NAME.WORD`` has their functions."""

EXAMPLE = "example: heliostat train workloads/configs/digits.yaml --set optimizer.lr=0.01"


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input, 1 failed, 130 stopped, 75 contact lost."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _run(argv)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("heliostat."):
            raise
        own = f"heliostat {' '.join(argv[:1])} needs {error.name}, and jobs do not have what is for other machines only"
        print(f"heliostat: {own}\n  fix: run it outside of a job", file=sys.stderr)
        return 2


def _run(argv: list[str]) -> int:
    if "_ARGCOMPLETE" in os.environ:
        from heliostat.completion import complete

        complete(parser_of, SUBCOMMANDS)
    parser = parser_of(argv)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        words = SUBCOMMANDS.get(args.command, {})
        hint = "; a key of the config is set by --set KEY=VALUE, such as --set epochs=3" if args.command == "train" else ""
        if words and (near := nearest(unknown[0], words)).endswith("?"):
            hint = f"; {near}"
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    order_search_path()
    try:
        with _few_collections():
            code = int(args.run(args))
            sys.stdout.flush()
            return code
    except HeliostatError as error:
        print("\n  ".join([f"heliostat: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("heliostat: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        return 128 + signal.SIGPIPE


def _output_is_closed() -> bool:
    """Whether what reads standard output has ended, such as ``head``; what is left for it is discarded then."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def parser_of(argv: list[str]) -> argparse.ArgumentParser:
    """The parser for a command line; of the commands, the options only of the one in it."""
    parser = argparse.ArgumentParser(
        prog="heliostat",
        description=f"Train models on autoscaling Ray clusters, from a laptop to Kubernetes.\n\n{_grouped()}",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"heliostat {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, help="heliostat COMMAND --help: its options"
    )
    for name, help_line in COMMANDS.items():
        command = commands.add_parser(name, description=help_line)
        if name in argv[:1]:
            _configure(command, name, *argv[1:2])
    return parser


def _grouped() -> str:
    """The commands and their help lines, group by group."""
    known = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "more": tuple(name for name in COMMANDS if name not in known)}
    return "\n".join(
        "\n".join([f"to {title}:" if title in GROUPS else f"{title}:", *(f"  {name:<11}{COMMANDS[name]}" for name in names)])
        for title, names in groups.items()
        if names
    )


@contextmanager
def _few_collections() -> Iterator[None]:
    """Collects garbage seldom: of the objects that imports make none is any, and torch makes 190,000 (2.15)."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 50, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _configure(parser: argparse.ArgumentParser, name: str, word: str = "") -> None:
    """Add the options of a command to its parser, or those of the subcommand that ``word`` names."""
    module = name
    if help_line := SUBCOMMANDS.get(name, {}).get(word):
        parser = parser.add_subparsers().add_parser(word, description=help_line)
        module = f"{name}.{word}"
    loaded = importlib.import_module(f"heliostat.commands.{module}")
    loaded.configure(parser)
    parser.set_defaults(run=loaded.run, parser=parser)
