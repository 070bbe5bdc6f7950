"""heliostat predict: applies a finished run to new input."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heliostat.commands import RUN_HELP, run_folder
from heliostat.commands.job.options import add_cluster_options, add_preview, refuse_cluster_options
from heliostat.wording import counted

INPUTS = "image files or texts, as the task reads them; of a table JSON rows, a file or folder of rows, or - for standard input"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="RUN", help=RUN_HELP)
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help=INPUTS)
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="for rows: the .csv, .parquet or .jsonl to write (default: NAME.predictions.csv beside a file, else standard "
        "output); or FOLDER/ for a part for each file, of large ones for each 64 MB, which the same command continues",
    )
    parser.add_argument(
        "--columns", metavar="A,B", help="for rows: the columns to carry along to the output (default: all; none: '')"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="for csv files: how they are written, such as read.separator=; (the keys of read are in docs/data.md)",
    )  # fmt: skip
    parser.add_argument("--storage", default="runs", help="where the runs are (default: runs)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document; of standard input without --out a JSON line a row"
    )
    add_cluster_options(parser, "prediction")
    add_preview(parser)
    parser.epilog = """examples: heliostat predict digits seven.png;
        heliostat predict churn '{"age": 41, "country": "DE"}'; heliostat predict churn new.csv --out predictions.parquet;
        heliostat predict churn new.txt --set 'read.separator=;' --set read.decimal=,;
        heliostat predict churn s3://lake/customers --out s3://lake/churn/ --on gpu"""


def run(args: argparse.Namespace) -> int:
    refuse_cluster_options(args)
    read = _read_options(args)
    if args.on:
        return _predict_on_cluster(args)
    from heliostat.commands.terminal.phases import phase

    with phase(f"predicting with {args.run_name}", quiet=args.json):
        from heliostat.workloads.inference import load_run

        trained = load_run(run_folder(args.run_name, args.storage))
        if trained.index.signature and not all(map(_is_row, args.inputs)):
            return _predict_file(trained, args, read)
        if trained.takes_texts and any(map(_is_file, args.inputs)):
            return _predict_file(trained, args, read)
    return _predict_each(trained, args)


def _read_options(args: argparse.Namespace) -> dict[str, Any]:
    """How the files are written, from ``--set read.KEY=VALUE``.

    Raises:
        UserError: there are other keys, or wrong ones.
    """
    if not args.set:
        return {}
    from heliostat.config import assignments, nearest
    from heliostat.errors import UserError
    from heliostat.workloads.prediction.tables import check_read

    given = assignments(args.set)
    if other := [name for name in given if name != "read"]:
        raise UserError(f"--set has {', '.join(other)}, which predict does not take", nearest(other[0], ["read"]))
    if not isinstance(read := given["read"], dict):
        raise UserError(f"--set read is {read!r}, but must be a mapping", "write --set 'read.separator=;'")
    check_read(read)
    return dict(read)


def _is_row(value: str) -> bool:
    return value.lstrip().startswith(("{", "["))


def _is_file(value: str) -> bool:
    """Whether an input is a file of texts, and no text."""
    return value == "-" or value.endswith((".csv", ".parquet", ".jsonl")) or Path(value).is_dir()


def _predict_each(trained: Any, args: argparse.Namespace) -> int:
    from heliostat.console import out, print_json, print_table
    from heliostat.errors import UserError
    from heliostat.workloads.inference import predict

    if args.out or args.columns is not None or args.set:
        option = "--out" if args.out else "--set" if args.set else "--columns"
        raise UserError(f"{option} is for a file of rows, or rows on standard input", "leave it out, or give such an input")
    results = [predict(trained, value) for value in args.inputs]
    if args.json:
        print_json(results)
    elif all("class" in result for result in results):
        rows = [(r["input"][:60], r["class"], f"{r['probabilities'][r['class']]:.1%}") for r in results]
        print_table(("input", "class", "probability"), rows)
    elif all("prediction" in result for result in results):
        names = list(dict.fromkeys(name for result in results for name in result.get("quantiles", {})))
        numbers = [[r["prediction"], *(r["quantiles"][name] for name in names)] for r in results]
        rows = [(r["input"][:60], *(f"{n:.7g}" for n in found)) for r, found in zip(results, numbers, strict=True)]
        print_table(("input", "prediction", *(f"quantile {name}" for name in names)), rows)
    else:
        for result in results:
            text = result.get("text") or {k: v for k, v in result.items() if k != "input"}
            out.print(text, highlight=False, markup=False)
    for number, result in enumerate(results, 1):
        for what, columns in result.get("odd", {}).items():
            words = {"missing": "missing", "unknown": "an unknown category", "beyond": "out of the range of the training data"}
            where = f"input {number}: " if len(results) > 1 else ""
            _say(f"heliostat: {where}{', '.join(columns)}: {words[what]}")
    return 0


def _predict_file(trained: Any, args: argparse.Namespace, read: dict[str, Any]) -> int:
    """Predict the rows of a file, a folder or standard input, and write a file, or to standard output what came from there."""
    from heliostat.console import print_json
    from heliostat.errors import UserError
    from heliostat.workloads.prediction import files
    from heliostat.workloads.prediction.tables import open_tables

    if len(args.inputs) > 1:
        raise UserError(f"{len(args.inputs)} inputs are not all JSON rows", "give one file, a folder, or a quoted pattern")
    (place,) = args.inputs
    carried = None if args.columns is None else [name for name in args.columns.split(",") if name]
    if args.out and args.out.endswith("/"):
        return _predict_parts(trained, place, carried, args, read)
    out = args.out or ("" if place == "-" else beside(place))
    if out:
        files.check_name(out)
    summary = files.Summary()
    with _spooled(place) as path:
        predicted = files.predict_tables(trained.predictor, open_tables(path, trained.index, read).read(), summary, carried)
        if out:
            files.write(out, predicted)
        else:
            files.write_to(sys.stdout.buffer, ".jsonl" if args.json else ".csv", predicted)
    if args.json and out:
        print_json({"out": out, **summary.document()})
    else:
        _say(f"{out}: {summary}" if out else str(summary))
    return 0


def _predict_parts(trained: Any, place: str, carried: list[str] | None, args: argparse.Namespace, read: dict[str, Any]) -> int:
    """Predict each file, or section of a large one, to one of a folder: here, or in parallel on the Ray of RAY_ADDRESS."""
    import os
    from contextlib import nullcontext

    from heliostat.cluster.in_process import connection
    from heliostat.commands.terminal.live import line
    from heliostat.console import print_json
    from heliostat.errors import UserError
    from heliostat.folder import absolute, default_base, expanded
    from heliostat.workloads.prediction_parts import plan_job, predict_parts

    if place == "-":
        raise UserError("--out is a folder, but standard input is one table", "give a file, such as predictions.parquet")
    out, address = absolute(expanded(args.out, key="--out"), default_base()), os.environ.get("RAY_ADDRESS")
    job, tables = plan_job(trained, place, out, carried, read)
    with line() as shown, connection(address) if address else nullcontext():
        summary = predict_parts(
            job, tables, trained, bool(address), lambda done, total: shown.say(f"predicted {done} of {counted(total, 'part')}")
        )
    if args.json:
        print_json({"out": out, "parts": job.parts, **summary.document()})
    else:
        _say(f"{out}: {counted(job.parts, 'part')}, {summary}")
    return 0


def _predict_on_cluster(args: argparse.Namespace) -> int:
    """Submit the same command as a job on the profile's cluster, which predicts its parts in parallel.

    Raises:
        UserError: it has no folder as output, or the job would not find its input; nothing has been sent.
    """
    from heliostat.cluster.profile import find
    from heliostat.commands.job import needed, sending
    from heliostat.commands.job.on_cluster import place_there, send_for_run
    from heliostat.datasets.sources.files import table_files
    from heliostat.errors import UserError
    from heliostat.folder import expanded
    from heliostat.workloads.plan import is_absolute

    profile = find(args.on)
    if len(args.inputs) > 1 or args.inputs[0] == "-" or _is_row(args.inputs[0]):
        raise UserError("--on predicts files of rows", "give one file, a folder or a URI, or leave out --on")
    if not args.out:
        raise UserError("--on needs --out, the folder for the parts", "add it, such as --out predictions/new/")
    if args.out.endswith((".csv", ".parquet", ".jsonl")):
        raise UserError(f"--out is {args.out}, a file, but --on writes a folder of parts", "give a folder: predictions/new/")
    (place,), values = args.inputs, sending.variables_to_send(args.env)
    variables = needed.job_variables(profile, values)
    out = f"{place_there(profile, args.out, '--out', variables).rstrip('/')}/"
    needed.check_paths(profile, [("INPUT", place)], variables)
    files = sending.files_to_send()
    if not is_absolute(expanded(place, variables, "INPUT")):
        needed.check_sent(files, {"INPUT": [file.path for file in table_files(place)]})
    columns = [] if args.columns is None else ["--columns", args.columns]
    return send_for_run(args, ["predict"], [place, "--out", out, *columns], files)


def _say(text: str) -> None:
    from heliostat.console import err

    err.print(text, highlight=False, markup=False, soft_wrap=True)


def beside(place: str) -> str:
    """The default name of the predictions for a file, a folder or a pattern: beside it, or in the working directory."""
    name = place.rstrip("/")
    stem = Path(name).name.partition(".")[0]
    if "://" in place or any(letter in place for letter in "*?["):
        return "predictions.csv"
    return str(Path(name).with_name(f"{stem}.predictions.csv"))


@contextmanager
def _spooled(place: str) -> Iterator[str]:
    """The path of the rows; those of standard input are copied to a temporary file, because they are read twice."""
    import tempfile

    if place != "-":
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="heliostat-rows-") as folder:
        first = sys.stdin.buffer.read(1 << 16)
        path = Path(folder) / f"standard-input{'.json' if first.lstrip()[:1] in (b'{', b'[') else '.csv'}"
        with path.open("wb") as file:
            while first:
                file.write(first)
                first = sys.stdin.buffer.read(1 << 20)
        yield str(path)
