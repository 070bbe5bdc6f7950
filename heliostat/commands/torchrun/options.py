"""The options of torchrun (torch 2.15): some count here, too, and for the others the message says what takes their place."""

import argparse
import os
from collections.abc import Iterable

RENDEZVOUS = "the processes find each other by themselves"
LOGS = "all ranks are shown, with [rank N] before each line; to keep that in a file, end the command with 2>&1 | tee FILE"
REPLACED = {
    "rdzv-backend": RENDEZVOUS, "rdzv-endpoint": RENDEZVOUS, "rdzv-id": RENDEZVOUS, "rdzv-conf": RENDEZVOUS,
    "node-rank": RENDEZVOUS, "master-addr": RENDEZVOUS, "master-port": RENDEZVOUS, "local-addr": RENDEZVOUS,
    "tee": LOGS, "redirects": LOGS, "log-dir": LOGS, "logs-specs": LOGS, "log-line-prefix-template": LOGS,
    "local-ranks-filter": LOGS, "duplicate-stdout-filters": LOGS, "duplicate-stderr-filters": LOGS, "event-log-handler": LOGS,
    "numa-binding": "bind the process in the script, or start it with numactl",
    "virtual-local-rank": "LOCAL_RANK is the rank on the node, and each process sees the node's GPUs",
    "signals-to-handle": "SIGINT, SIGTERM and SIGHUP reach the script",
    "shutdown-timeout": "a script has 30 s to exit",
    "no-python": "the script is a Python file, or with -m a module",
    "run-path": "the script is a Python file, or with -m a module",
    "print-completion": "there is none",
}  # fmt: skip
"""What takes the place of an option."""
FLAGS = ("no-python", "run-path", "virtual-local-rank")
SHORT = {"tee": "-t", "redirects": "-r"}
WITHOUT_EFFECT = {"standalone": 0, "monitor-interval": 1, "start-method": 1, "role": 1}
"""Options that change nothing of what a script sees here, with the number of their values."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add torchrun's options, which the help does not list, and the spelling with ``_`` of the others."""
    for name in [option[2:] for option in parser._option_string_actions if "-" in option[2:]]:
        _alias(parser, name)
    for name in (*REPLACED, *WITHOUT_EFFECT, "nnodes", "nproc-per-node"):
        flag = name in FLAGS or WITHOUT_EFFECT.get(name) == 0
        spellings = dict.fromkeys([f"--{name}", f"--{name.replace('-', '_')}", *([SHORT[name]] if name in SHORT else [])])
        if flag:
            parser.add_argument(*spellings, dest=name, action="store_true", default=None, help=argparse.SUPPRESS)
        else:
            parser.add_argument(*spellings, dest=name, help=argparse.SUPPRESS)


def _alias(parser: argparse.ArgumentParser, name: str) -> None:
    parser._option_string_actions[f"--{name.replace('-', '_')}"] = parser._option_string_actions[f"--{name}"]


def check_options(args: argparse.Namespace) -> None:
    """Raise a UserError that lists the options which have no meaning here, and what takes their place."""
    from heliostat.errors import UserError

    given = [name for name in REPLACED if getattr(args, name) is not None]
    if given:
        reasons = dict.fromkeys(REPLACED[name] for name in given)
        parts = [f"{_listed(name for name in given if REPLACED[name] == reason)}: {reason}" for reason in reasons]
        raise UserError(f"not an option of heliostat torchrun: {'; '.join(parts)}", f"leave out {_listed(given)}")


def workers_of(args: argparse.Namespace) -> int:
    """The number of processes: ``--workers``, or as torchrun has it, the nodes times the processes of each.

    Raises:
        UserError: they are not a fixed number, or contradict each other.
    """
    from heliostat.errors import UserError

    nodes, each = (getattr(args, name) for name in ("nnodes", "nproc-per-node"))
    if nodes is None and each is None:
        return 1 if args.workers is None else int(args.workers)
    if nodes is not None and not nodes.isdecimal():
        raise UserError(f"--nnodes is {nodes}, but the number of processes is fixed", "give all processes: --workers N")
    several = int(nodes or 1)
    total = several * _processes(each or "1", bool(args.on))
    if several > 1 and not args.on and "RAY_ADDRESS" not in os.environ:
        raise UserError(
            f"--nnodes is {nodes}, but here is one machine",
            f"--workers {total} for all processes here, or --on PROFILE --workers {total} on a cluster",
        )
    if args.workers not in (None, total):
        raise UserError(f"--workers is {args.workers}, but --nnodes and --nproc-per-node make {total}", "give --workers alone")
    return total


def _processes(each: str, elsewhere: bool) -> int:
    """The value of ``--nproc-per-node``; a word counts what this machine has."""
    from heliostat.errors import UserError

    if each.isdecimal():
        return int(each)
    fix = "give the total number of processes instead: --workers N"
    if each not in ("gpu", "cpu", "auto"):
        raise UserError(f"--nproc-per-node is {each}, but must be a number, gpu, cpu or auto", fix)
    if elsewhere or "RAY_ADDRESS" in os.environ:
        raise UserError(f"--nproc-per-node is {each}, but the cluster decides where processes run", fix)
    from heliostat.cluster import in_process

    (here,) = in_process.machine()
    found = int(here["CPU"] if each == "cpu" or (each == "auto" and not here["GPU"]) else here["GPU"])
    if not found:
        raise UserError(f"--nproc-per-node is {each}, but this machine has no GPU", fix)
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"--{name}" for name in names)
