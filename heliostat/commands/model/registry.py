"""What the commands of the registry share: its options, and how a version is shown."""

import argparse
from typing import TYPE_CHECKING, Any

from heliostat.commands import storage_at
from heliostat.commands.job.options import add_cluster_options, add_preview, refuse_cluster_options

if TYPE_CHECKING:
    from heliostat.workloads.registry.registry import Registry

MODEL_HELP = "a model's name, NAME@VERSION, NAME@champion or NAME@candidate"


def add_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the options that all commands of the registry have; ``what`` they do as a job on a cluster."""
    parser.add_argument("--storage", default="runs", help="where the runs and the models are (default: runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_cluster_options(parser, what)
    add_preview(parser)


def add_why(parser: argparse.ArgumentParser) -> None:
    """Add the option for the log."""
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for the log of the model")


def on_cluster(args: argparse.Namespace, words: list[str], options: list[str]) -> int | None:
    """The exit code of the same command as a job on the cluster of ``--on``; None without it."""
    refuse_cluster_options(args)
    if not args.on:
        return None
    from heliostat.commands.job.on_cluster import send_for_run

    return send_for_run(args, words, options)


def registry_of(args: argparse.Namespace) -> "Registry":
    """The registry in the storage of the options."""
    return registry_at(args.storage)


def registry_at(storage: str, key: str = "--storage") -> "Registry":
    """The registry in a storage, which ``key`` gives; changes are those of this user, or of the one who submitted this job."""
    from heliostat.cluster.in_pod.ray_usage import LABEL
    from heliostat.job_output import job_metadata
    from heliostat.workloads.registry.registry import Registry

    return Registry(storage_at(storage, key), job_metadata().get(f"{LABEL}submitter", ""))


def name_of(args: argparse.Namespace) -> str:
    """The name of the model: that of ``--name``, or of the run."""
    return str(args.name or args.run_name.rstrip("/").rpartition("/")[2])


def say(text: str) -> None:
    """Print a line of any text."""
    from heliostat.console import out, printable

    out.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def metric_of(version: Any) -> str:
    """The metric that decides, of a version."""
    split, value = version.manifest.measured
    return f"{split} {version.manifest.metric} {value:.4f}" if value is not None else "not evaluated"
