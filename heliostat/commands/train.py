"""heliostat train: trains the model that a config describes."""

import argparse
import os
import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from heliostat.commands import pull_command
from heliostat.commands.live import add_cluster_options, add_cron, nodes_of, refuse_cluster_options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a config file, or the name of a bundled one, such as digits")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, such as optimizer.lr=0.01"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, and start nothing")
    add_cluster_options(parser, "run")
    add_cron(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")
    parser.add_argument("--verbose", action="store_true", help="show what Ray and the workers print")
    parser.epilog = "example: heliostat train workloads/configs/digits.yaml --set optimizer.lr=0.01 --dry-run"


def run(args: argparse.Namespace) -> int:
    launched = time.time()
    refuse_cluster_options(args)
    from heliostat.config import config_path, load
    from heliostat.workloads.config import TrainConfig

    config = load(config_path(args.config, "workloads/configs"), TrainConfig, args.set, {"name": Path(args.config).stem})
    if args.on:
        return _train_on_cluster(config, args)
    address = os.environ.get("RAY_ADDRESS")
    if args.dry_run:
        from heliostat.workloads.plan import prepare

        _show_plan(prepare(config, nodes_of(address)), args.json)
        return 0
    # What Ray and the user's task print must not mix with the one document on standard output.
    with redirect_stdout(sys.stderr):
        result = _train(config, address, launched, args.verbose)
    _show_result(result, args.json)
    return 0


def _train_on_cluster(config: Any, args: argparse.Namespace) -> int:
    """Submit the same command as a job on the profile's cluster.

    Raises:
        UserError: config and cluster do not fit together; nothing has been sent.
    """
    from heliostat.cluster.profile import find
    from heliostat.commands import sending
    from heliostat.commands.on_cluster import check_storage, relative_path, send
    from heliostat.workloads.plan import prepare

    profile = find(args.on)
    path = relative_path(args.config)
    check_storage(profile, config.storage)
    plan = prepare(config, profile.capacity, profile.storage.root, elsewhere=True)
    values = sending.variables_to_send(args.env)
    files = sending.files_to_send(path)
    if args.dry_run:
        _show_plan(plan, args.json, files, values)
        return 0
    return send(profile, config, args, ["train", path], files, values)


def _train(config: Any, address: str | None, launched: float, verbose: bool) -> Any:
    from heliostat.cluster import in_process
    from heliostat.workloads.plan import prepare

    if address:
        with in_process.connection(address, verbose) as dashboard:
            from heliostat.workloads.nodes import available

            return _run(prepare(config, available()), launched, nullcontext(dashboard))
    return _run(prepare(config, in_process.machine()), launched, in_process.session(verbose))


def _run(plan: Any, launched: float, ray_session: AbstractContextManager[str]) -> Any:
    """Everything that can be refused is refused before Ray is started, and a finished run does not start it."""
    from heliostat.commands.progress import Display

    with plan.claim() as (owner, record, finished):
        if finished:
            return finished
        with Display(plan) as display, ray_session as dashboard:
            from heliostat.workloads.ray_train.driver import execute

            display.connected(dashboard)
            return execute(plan, record, launched, owner, display.update)


def _show_plan(plan: Any, as_json: bool, files: Any = None, variables: Iterable[str] = ()) -> None:
    """Show what a run would do, and with a cluster the ``files`` that it gets."""
    from heliostat.commands import sending
    from heliostat.config import dump
    from heliostat.console import out, print_json

    config = plan.config
    document = {
        "config": config.model_dump(mode="json"),
        "hash": config.hash,
        "workers": config.workers,
        "resources": {"CPU": config.most_workers * config.resources.cpu, "GPU": config.most_workers * config.resources.gpu},
        "dataset": {"uri": plan.dataset_uri, "will_be_built": plan.source is not None},
        "run": plan.uri,
        "resumes": None if plan.elsewhere else plan.folder.exists(),
    }
    if as_json:
        print_json(document | ({"sent": sending.document(files, variables)} if files else {}))
        return
    out.print(dump(config), end="", highlight=False, markup=False)
    built = "will be built if it does not exist" if plan.elsewhere else "will be built" if plan.source else "exists"
    least, most = config.least_workers, config.most_workers
    workers = str(most) if least == most else f"{least} to {most}"
    known = {None: "checked by the job", True: "exists: the run is resumed", False: "new"}
    for name, text in {
        "workers": f"{workers}, each with {config.resources.cpu} CPU and {config.resources.gpu} GPU",
        "batch": f"{config.global_batch} samples a step",
        "dataset": f"{plan.dataset_uri} ({built})",
        "run folder": f"{plan.uri} ({known[document['resumes']]})",
    }.items():
        out.print(f"# {name}: {text}", highlight=False, markup=False, soft_wrap=True)
    if files:
        sending.show(files, variables)


def _show_result(result: Any, as_json: bool) -> None:
    from heliostat.console import duration, numbers, out, print_json

    if as_json:
        print_json({**result.model_dump(), "report": result.report})
        return

    def say(text: str) -> None:
        out.print(text, highlight=False, markup=False, soft_wrap=True)

    if result.already:
        say(f"{result.name} is already finished; to train again, choose another name: --set name={result.name}-2")
    else:
        say(f"{result.name} finished at step {result.step} in {duration(result.seconds['total'])}")
    for split, metrics in result.metrics.items():
        say(f"  {split:<11}{numbers(metrics)}")
    if result.cost is not None:
        say(f"  cost       {result.cost:.4g}")
    pull = pull_command(result.run)
    say(f"  report     {pull} --open" if pull else f"  report     {result.report}")
