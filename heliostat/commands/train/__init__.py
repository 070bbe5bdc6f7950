"""heliostat train: trains the model that a config describes."""

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.commands import pull_command
from heliostat.commands.job.options import add_cluster_options, add_cron, refuse_cluster_options
from heliostat.commands.terminal.live import add_dashboard, nodes_of, refuse_dashboard, show_dashboard
from heliostat.commands.train.scaling import STOPPED, add_scaling, configs_of, run_scaling, sizes_of
from heliostat.commands.train.then import (
    add_if_drift,
    add_if_new,
    check_if_new,
    follow_up,
    show_followed,
    with_new_data,
    with_start,
)
from heliostat.wording import counted

IMPORTED = "heliostat.workloads.ray_train.driver,heliostat.workloads.training.loop"
BY_OPTIMIZERS = ",torch._dynamo"
"""What workers import as soon as they are started; torch's optimizers import its compiler (2.15), which takes a second."""

if TYPE_CHECKING:
    from heliostat.commands.job.on_cluster import Request
    from heliostat.commands.terminal.progress import MakeDisplay, MakeWatch


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        nargs="?",
        default="train.yaml",
        help="a config file, or the name of a bundled one, such as digits (default: train.yaml)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, such as optimizer.lr=0.01"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="try the task on a few samples, print the plan, and start nothing"
    )
    parser.add_argument(
        "--in-process", action="store_true", help="train in this process, with one worker and without Ray: breakpoint() works"
    )
    add_scaling(parser)
    add_if_new(parser)
    add_if_drift(parser)
    add_cluster_options(parser, "run")
    add_cron(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")
    parser.add_argument("--verbose", action="store_true", help="show what Ray and the workers print")
    add_dashboard(parser)
    parser.epilog = "example: heliostat train workloads/configs/digits.yaml --set optimizer.lr=0.01 --dry-run"


def run(args: argparse.Namespace) -> int:
    launched = time.time()
    refuse_cluster_options(args)
    refuse_dashboard(args, os.environ.get("RAY_ADDRESS"))
    from heliostat.config import config_path, load
    from heliostat.console import print_json
    from heliostat.errors import UserError
    from heliostat.workloads.config import TrainConfig

    config = load(config_path(args.config, "workloads/configs"), TrainConfig, args.set, {"name": Path(args.config).stem})
    sizes = configs_of(config, sizes_of(args)) if args.scaling else [config]
    config = sizes[-1]  # the largest decides whether it fits
    if args.in_process:
        config = config.model_copy(update={"workers": 1})
        if args.on:
            raise UserError("--in-process trains here, and --on on a cluster", "leave one of them out")
    check_if_new(config, args)
    if args.on:
        return _train_on_cluster(config, args)
    if args.scaling:
        run_scaling([with_start(each) for each in sizes], args)
        return 0
    why = ""
    if args.if_new:
        config, why = with_new_data(config, args.if_drift, args.json)
        if config is None:
            return 0
    config = with_start(config)
    address = None if args.in_process else os.environ.get("RAY_ADDRESS")
    if args.dry_run:
        from heliostat.workloads.plan import prepare

        # What torch has made is not collected at the exit, which takes 0.4 s. What is imported later is: nanobind, in Triton,
        # prints what is left.
        gc.freeze()
        _show_plan(prepare(config, nodes_of(address)), args.json)
        return 0
    # What Ray and the user's task print must not mix with the one document on standard output.
    with redirect_stdout(sys.stderr) if args.json or not args.in_process else nullcontext():
        result = _train(config, address, launched, args)
    if not args.json:
        _show_result(result)
    followed = follow_up(config, result, args.json, why) if config.then else None
    if args.json:
        document = {"then": followed.document} if followed else {}
        print_json({**result.model_dump(), "report": result.report, **document})
    elif followed:
        show_followed(followed)
    return 0 if followed is None or followed.passed else 1


def _train(config: Any, address: str | None, launched: float, args: argparse.Namespace) -> Any:
    from heliostat.commands.terminal.progress import Display, evaluations

    if args.in_process:
        return train_in_process(config, launched, lambda plan: nullcontext(evaluations), args.json)
    return train_on_ray(
        config, address, launched, lambda plan: Display(plan, args.verbose, args.json), args.json, args.verbose, args.dashboard
    )


def _train_on_cluster(config: Any, args: argparse.Namespace) -> int:
    """Submit the same command as a job on the profile's cluster."""
    from heliostat.commands.job.on_cluster import send_or_show

    return send_or_show(request_for(config, args), args, _show_plan)


def request_for(config: Any, args: argparse.Namespace) -> "Request":
    """What a job of a run on the profile's cluster needs.

    Raises:
        UserError: config and cluster do not fit together; nothing has been sent.
    """
    from heliostat.cluster.profile import find
    from heliostat.commands.job import needed, sending
    from heliostat.commands.job.on_cluster import Request, check_storage, check_times, relative_path
    from heliostat.folder import expanded
    from heliostat.workloads.plan import prepare

    profile = find(args.on)
    path = relative_path(args.config)
    times = check_times(profile, config.name, args)
    values = sending.variables_to_send(args.env)
    variables = needed.job_variables(profile, values)
    start = expanded(config.start_from.path, variables, "start_from") if config.start_from else ""
    file = Path(start).is_file()  # else a run, on the cluster's storage
    origin = [("start_from", config.start_from.path)] if config.start_from and file else []
    data = config.dataset.model_dump()
    named = needed.option_paths(config.model, data)
    needed.check_paths(profile, [*needed.data_paths(data), *named, *origin], variables)
    check_storage(profile, expanded(config.storage, variables, "storage"))
    wheels = sending.requirements_to_send(config.requirements, profile.ray_version)
    plan = prepare(config, profile.capacity, profile.storage.root, elsewhere=True, variables=variables)
    weights = [relative_path(start)] if file and not Path(start).is_absolute() else []
    files = sending.files_to_send(path, *wheels, *weights)
    sent = {**needed.data_files(plan), **needed.option_files(named), **needed.own_files(profile, config)}
    needed.check_sent(files, sent)
    command = ["train", path]
    if getattr(args, "scaling", None):  # a name of its own: it is no job of that run
        command += ["--scaling", args.scaling]
        return Request(profile, f"{config.name}-scaling", command, plan, files, values, times, STOPPED)
    command += ["--if-new"] * getattr(args, "if_new", False)
    return Request(profile, config.name, command, plan, files, values, times)


def train_on_ray(
    config: Any, address: str | None, launched: float, display: "MakeDisplay", quiet: bool = False, verbose: bool = False,
    dashboard: bool = False,
) -> Any:  # fmt: skip
    """Train on the Ray at an address, or on one for the duration of the run; returns its result.

    Args:
        config: of the run.
        address: of a running Ray; None to start one.
        launched: when the command started, in seconds since the epoch.
        display: makes what shows the progress of a plan.
        quiet: whether the phases before it are not shown where there is no terminal.
        verbose: whether Ray shows what it and the workers print.
        dashboard: whether Ray's dashboard is started too, and its URL shown.
    """
    from heliostat.cluster import in_process
    from heliostat.commands.terminal.phases import phase

    if address:
        with in_process.connection(address, verbose) as url:
            return train_connected(config, launched, display, quiet, url)
    # Ray and its workers start while this process imports what trains, and tries the task.
    with in_process.starting(verbose, dashboard, config.most_workers, **_prepared(config)) as connect:
        with phase("checking the config, the task and the data", quiet):
            from heliostat.workloads.plan import prepare

            plan = prepare(config, in_process.machine())
        return _run(plan, launched, connect, display, quiet, dashboard)


def _prepared(config: Any) -> dict[str, Any]:
    """What workers import before Ray has a use for them; nothing where they get GPUs, of which Ray tells them only then."""
    from heliostat.cluster import in_process

    if config.resources.gpu != 0 and in_process.machine()[0]["GPU"]:
        return {}
    return {"threads": max(1, int(config.resources.cpu)), "imports": IMPORTED + BY_OPTIMIZERS * (not config.by_rounds)}


def train_connected(config: Any, launched: float, display: "MakeDisplay", quiet: bool = False, url: str = "") -> Any:
    """Train on the Ray that this process is connected to; ``url`` is that of its dashboard, if it is to be shown."""
    from heliostat.workloads.nodes import available
    from heliostat.workloads.plan import prepare

    return _run(prepare(config, available()), launched, lambda: url, display, quiet)


def train_in_process(config: Any, launched: float, watching: "MakeWatch", quiet: bool = False) -> Any:
    """Train in this process with one worker; ``watching`` makes what gets the records of a plan at each evaluation."""
    from heliostat.cluster import in_process
    from heliostat.commands.dataset.building import building
    from heliostat.workloads.plan import prepare
    from heliostat.workloads.ray_train.driver import execute
    from heliostat.workloads.training.start import begin

    plan = prepare(config, in_process.machine())
    with ExitStack() as stack:
        with building(plan.source, "opening the run", quiet):
            owner, record, finished = stack.enter_context(plan.claim())
        if finished:
            return finished
        record = begin(plan, record, tries=False)
        return execute(plan, record, launched, owner, stack.enter_context(watching(plan)), here=True)


def _run(
    plan: Any, launched: float, connect: Callable[[], str], display: "MakeDisplay", quiet: bool, dashboard: bool = False
) -> Any:
    """Execute a plan, unless it is refused or finished; ``connect`` connects to Ray, and returns the URL of the dashboard."""
    from heliostat.commands.dataset.building import building
    from heliostat.commands.terminal.phases import phase
    from heliostat.workloads.training.start import begin

    with ExitStack() as stack:
        with building(plan.source, "opening the run", quiet):
            owner, record, finished = stack.enter_context(plan.claim())
        if finished:
            return finished
        with phase("trying the task on a few samples", quiet):
            record = begin(plan, record)
        with phase("starting Ray", quiet):
            show_dashboard(connect(), dashboard)
        with display(plan) as shown:
            from heliostat.workloads.ray_train.driver import execute

            shown.connected()
            return execute(plan, record, launched, owner, shown.update)


def _show_plan(plan: Any, as_json: bool, files: Any = None, variables: Iterable[str] = ()) -> None:
    """Show what a run would do, after a try of its task, and with a cluster the ``files`` that it gets."""
    from heliostat.commands.dataset.info import columns
    from heliostat.commands.job import sending
    from heliostat.config import dump
    from heliostat.console import out, print_json, printable
    from heliostat.environment import DATASETS
    from heliostat.workloads.training.start import preview

    with redirect_stdout(sys.stderr):
        found = preview(plan)
    config, standing = plan.config, found.standing
    document = {
        "config": config.model_dump(mode="json"),
        "hash": config.hash,
        "workers": config.workers,
        "resources": {"CPU": config.most_workers * config.resources.cpu, "GPU": config.most_workers * config.resources.gpu},
        "dataset": {"uri": plan.dataset_uri, "will_be_built": bool(config.dataset.source and (plan.elsewhere or plan.source))},
        "run": plan.uri,
        "resumes": standing.exists if standing else None,
        "finished": bool(standing.finished) if standing else None,
        "steps": standing.total if standing else config.steps,
        "notes": found.notes,
        "columns": {column.name: column.kind for column in found.signature.columns} if found.signature else None,
        "left_out": dict(found.signature.left_out) if found.signature else None,
    }
    if as_json:
        print_json(document | ({"sent": sending.document(files, variables)} if files else {}))
        return
    out.print(dump(config), end="", highlight=False, markup=False)
    built = "will be built" if plan.source else "exists"
    if plan.elsewhere:
        built = "will be built if it does not exist" if config.dataset.source else "checked by the job"
    elif plan.source and plan.source.preview() is None:
        built = "will be built, and its rows checked then"
    least, most = config.least_workers, config.most_workers
    workers = str(most) if least == most else f"{least} to {most}"
    for name, text in {
        "workers": f"{workers}, each with {config.resources.cpu} CPU and {config.resources.gpu} GPU",
        "batch": ("all samples" if config.by_rounds else counted(config.global_batch, "sample"))
        + " a step"
        + (f", {counted(standing.total, 'step')}" if standing else ""),
        "dataset": f"{'in ' * plan.dataset_uri.endswith(DATASETS)}{plan.dataset_uri} ({built})",
        "run folder": f"{plan.uri} ({_known(config.name, standing)})",
        **{f"note {number}": note for number, note in enumerate(found.notes, 1)},
        **dict(columns(found.signature) if found.signature else ()),
    }.items():
        out.print(f"# {printable(name)}: {printable(text)}", highlight=False, markup=False, soft_wrap=True)
    sending.show_requirements(config.requirements)
    if files:
        sending.show(files, variables)


def _known(name: str, standing: Any) -> str:
    """What is known of a run before its command, in words."""
    if standing is None:
        return "checked when the run starts"
    if standing.finished:
        return _finished(name)
    if not standing.exists:
        return "new"
    return "exists: the run starts again" if standing.step is None else f"exists: the run is resumed from step {standing.step}"


def _finished(name: str) -> str:
    return (
        f"{name} is already finished; train it for longer with more epochs or steps, "
        f"or choose another name: --set name={name}-2"
    )


def _show_result(result: Any) -> None:
    from heliostat.console import duration, money, numbers, out

    def say(text: str) -> None:
        out.print(text, highlight=False, markup=False, soft_wrap=True)

    if result.already:
        say(_finished(result.name))
    else:
        ended = f", ended by {result.message}" if result.message else ""
        say(f"{result.name} finished at step {result.step} in {duration(result.seconds['total'])}{ended}")
    for split, metrics in result.metrics.items():
        say(f"  {split:<11}{numbers(metrics)}")
    if result.cost is not None:
        say(f"  cost       {money(result.cost)}")
    pull = pull_command(result.run)
    say(f"  report     {pull} --open" if pull else f"  report     {result.report}")
