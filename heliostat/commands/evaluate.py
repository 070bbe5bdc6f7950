"""heliostat evaluate: computes the metrics of a finished run on a split."""

import argparse
from typing import Any

from heliostat.commands import RUN_HELP, run_folder
from heliostat.commands.job.options import add_cluster_options, add_preview, refuse_cluster_options
from heliostat.wording import counted


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--split", default="test", help="train, validation or test (default: test)")
    parser.add_argument("--storage", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_cluster_options(parser, "evaluation")
    add_preview(parser)
    parser.epilog = "example: heliostat evaluate digits --split validation --json"


def run(args: argparse.Namespace) -> int:
    refuse_cluster_options(args)
    if args.on:
        from heliostat.commands.job.on_cluster import send_for_run

        return send_for_run(args, ["evaluate"], ["--split", args.split])
    from heliostat.commands.terminal.phases import phase
    from heliostat.console import numbers, out, print_json

    with phase(f"evaluating {args.run_name} on the {args.split} split", quiet=args.json):
        from heliostat.commands.job.on_worker import on_worker
        from heliostat.workloads.inference import evaluate
        from heliostat.workloads.run.record import read_record

        folder = run_folder(args.run_name, args.storage)
        gpus = float(read_record(folder).config.resources.gpu)
        result = on_worker(f"{args.run_name} could not be evaluated", gpus, evaluate, str(folder), args.split)
    if args.json:
        print_json(result)
    else:
        out.print(
            f"{args.run_name} at step {result['step']}, {counted(result['samples'], f'{args.split} sample')}", highlight=False
        )
        out.print(f"  {numbers(result['metrics'])}", highlight=False, markup=False, soft_wrap=True)
        if result["intervals"]:
            _print_intervals(result)
    return 0


def _print_intervals(result: dict[str, Any]) -> None:
    """How sure the metrics are, and what a prediction that does not look at the sample reaches."""
    from heliostat.console import print_table

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    rows = [
        [name, shown(result["metrics"][name]), f"{low:.4f} to {high:.4f}", shown(result["baseline"].get(name))]
        for name, (low, high) in result["intervals"].items()
    ]
    print_table(("metric", "value", "95 % interval", "baseline"), rows)
