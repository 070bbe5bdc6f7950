"""heliostat predict: applies a finished run to new input."""

import argparse

from heliostat.commands import RUN_HELP, run_folder


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="RUN", help=RUN_HELP)
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="image files, JSON rows, or texts, as the task reads them")
    parser.add_argument("--storage", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = "example: heliostat predict digits seven.png"


def run(args: argparse.Namespace) -> int:
    from heliostat.commands.phases import phase
    from heliostat.console import out, print_json, print_table

    with phase(f"predicting with {args.run_name}", quiet=args.json):
        from heliostat.workloads.inference import load_run, predict

        trained = load_run(run_folder(args.run_name, args.storage))
        results = [predict(trained, value) for value in args.inputs]
    if args.json:
        print_json(results)
    elif all("class" in result for result in results):
        rows = [(r["input"][:60], r["class"], f"{next(iter(r['probabilities'].values())):.1%}") for r in results]
        print_table(("input", "class", "probability"), rows)
    else:
        for result in results:
            text = result.get("text") or {k: v for k, v in result.items() if k != "input"}
            out.print(text, highlight=False, markup=False)
    return 0
