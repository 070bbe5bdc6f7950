"""heliostat model export: writes a run's model in a format that is used without Heliostat."""

import argparse
from typing import TYPE_CHECKING

from heliostat.commands import RUN_HELP
from heliostat.commands.job.options import add_cluster_options, add_preview, refuse_cluster_options

if TYPE_CHECKING:
    from heliostat.folder import Folder

FORMATS = ("safetensors", "torch", "onnx", "hf", "lightgbm")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="RUN", help=f"{RUN_HELP}; of a sweep its best trial")
    parser.add_argument(
        "--to", required=True, choices=FORMATS,
        help="safetensors: weights; torch: a program of torch.export; onnx; hf: for transformers; lightgbm: trees",
    )  # fmt: skip
    parser.add_argument("--output", metavar="FOLDER", help="the folder or URI to write (default: NAME-FORMAT)")
    parser.add_argument("--storage", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_cluster_options(parser, "export")
    add_preview(parser)
    parser.epilog = "example: heliostat model export digits --to onnx (docs/export.md describes the formats)"


def run(args: argparse.Namespace) -> int:
    refuse_cluster_options(args)
    if args.on:
        return _export_on_cluster(args)
    from heliostat.commands.terminal.phases import phase
    from heliostat.console import out, print_json

    with phase(f"exporting {args.run_name} to {args.to}", quiet=args.json):
        from heliostat.commands.job.on_worker import on_worker
        from heliostat.workloads.export.export import export, place_of
        from heliostat.workloads.run.record import read_record

        folder = folder_of_trained(args.run_name, args.storage)
        output = place_of(read_record(folder), args.to, args.output)
        done = on_worker(f"{args.run_name} could not be exported", 0, export, str(folder), args.to, output)
    if args.json:
        print_json(done)
        return 0
    lines = [f"exported {args.run_name} at step {done['step']} to {done['output']}"]
    lines += [f"  {name:<24} {size:>12,} bytes" for name, size in done["files"].items() if not name.startswith("loader/")]
    for line in [*lines, f"  {done['compared']}"]:
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _export_on_cluster(args: argparse.Namespace) -> int:
    """Submit the same command as a job on the profile's cluster, where the run and the output are on its storage."""
    from heliostat.cluster.profile import find
    from heliostat.commands.job import needed, sending
    from heliostat.commands.job.on_cluster import place_there, send_for_run

    profile = find(args.on)
    variables = needed.job_variables(profile, sending.variables_to_send(args.env))
    output = ["--output", place_there(profile, args.output, "--output", variables)] if args.output else []
    return send_for_run(args, ["model", "export"], ["--to", args.to, *output])


def folder_of_trained(run: str, storage: str) -> "Folder":
    """The folder of a run, or of the best trial of a sweep.

    Raises:
        UserError: there is none.
    """
    from heliostat.commands import find_folder
    from heliostat.errors import UserError
    from heliostat.tuning.record import SWEEP, TRIALS
    from heliostat.tuning.results.table import SweepResult
    from heliostat.tuning.trials import trial_name

    folder = find_folder(run, storage)
    if not folder.exists(SWEEP):
        return folder
    result = SweepResult.read(folder)
    if result is None or result.best is None:
        raise UserError(f"sweep {run} has no best trial yet", "let it finish, or name a trial: SWEEP/trials/NUMBER")
    return folder / TRIALS / trial_name(result.best)
