"""heliostat sweep: searches for the best config with many trials."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.commands import pull_command
from heliostat.commands.job.options import add_cluster_options, add_cron, refuse_cluster_options
from heliostat.commands.terminal.live import add_dashboard, nodes_of, refuse_dashboard, show_dashboard

if TYPE_CHECKING:
    from heliostat.commands.job.on_cluster import Request
    from heliostat.commands.terminal.progress import MakeDisplay


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "heliostat sweep CONFIG [options]\n       heliostat sweep show NAME [--storage DIR] [--json]"
    parser.add_argument("config", metavar="CONFIG", help="a sweep's config file, such as tuning/configs/digits.yaml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, such as trials=50 or train.epochs=3"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the first trials and their resources, and start nothing")
    add_cluster_options(parser, "sweep")
    add_cron(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")
    parser.add_argument("--verbose", action="store_true", help="show what Ray and the workers print")
    add_dashboard(parser)
    parser.epilog = "example: heliostat sweep tuning/configs/digits.yaml --set trials=40 --set scheduler=median --dry-run"


def run(args: argparse.Namespace) -> int:
    refuse_cluster_options(args)
    refuse_dashboard(args, os.environ.get("RAY_ADDRESS"))
    from heliostat.config import config_path, load
    from heliostat.tuning.config import SweepConfig

    config = load(
        config_path(args.config, "tuning/configs"), SweepConfig, args.set, {"name": f"{Path(args.config).stem}-sweep"}
    )
    if args.on:
        return _sweep_on_cluster(config, args)
    address = os.environ.get("RAY_ADDRESS")
    if args.dry_run:
        from heliostat.tuning.plan import plan_sweep

        _show_plan(plan_sweep(config, nodes_of(address)), args.json)
        return 0
    # What Ray and the user's task print must not mix with the one document on standard output.
    with redirect_stdout(sys.stderr):
        result = _sweep(config, address, args)
    _show_result(result, args.json)
    return 0


def _sweep_on_cluster(config: Any, args: argparse.Namespace) -> int:
    """Submit the same command as a job on the profile's cluster: the sweep's driver runs on the head and holds no GPU."""
    from heliostat.commands.job.on_cluster import send_or_show

    return send_or_show(request_for(config, args), args, _show_plan)


def request_for(config: Any, args: argparse.Namespace) -> "Request":
    """What a job of a sweep on the profile's cluster needs.

    Raises:
        UserError: config and cluster do not fit together; nothing has been sent.
    """
    from heliostat.cluster.profile import find
    from heliostat.commands.job import needed, sending
    from heliostat.commands.job.on_cluster import Request, check_storage, check_times, relative_path
    from heliostat.folder import expanded
    from heliostat.tuning.config import base_of
    from heliostat.tuning.plan import plan_sweep

    profile = find(args.on)
    path = relative_path(args.config)
    path = "./show" if path == "show" else path  # not the subcommand
    values = sending.variables_to_send(args.env)
    variables = needed.job_variables(profile, values)
    bases, data = [str(config.train["base"])] if "base" in config.train else [], base_of(config)
    searched = [(name, value) for name in needed.DATA for value in (config.space[name].choice if name in config.space else ())]
    named = needed.option_paths(data.get("model"), data.get("dataset"))
    paths = [
        *(("train.base", base) for base in bases),
        *needed.data_paths(data.get("dataset")),
        *named,
        *((f"space.{name}", each) for name, each in searched),
    ]
    needed.check_paths(profile, paths, variables)
    plan = plan_sweep(config, profile.capacity, profile.storage.root, elsewhere=True, variables=variables)
    times = check_times(profile, config.name, args)
    check_storage(profile, expanded(plan.base["storage"], variables, "storage"))
    wheels = sending.requirements_to_send(plan.base.get("requirements", []), profile.ray_version)
    files = sending.files_to_send(path, *bases, *wheels)
    for each in (plan.train, *(plan.trial(0, {name: value}) for name, value in searched)):
        sent = {**needed.data_files(each), **needed.option_files(named), **needed.own_files(profile, each.config)}
        needed.check_sent(files, sent)
    return Request(profile, config.name, ["sweep", path], plan, files, values, times)


def _sweep(config: Any, address: str | None, args: argparse.Namespace) -> Any:
    from heliostat.commands.sweep.trials import Display

    return sweep_on_ray(config, address, lambda plan: Display(plan, args.json), args.json, args.verbose, args.dashboard)


def sweep_on_ray(
    config: Any, address: str | None, display: "MakeDisplay", quiet: bool = False, verbose: bool = False,
    dashboard: bool = False,
) -> Any:  # fmt: skip
    """Run a sweep on the Ray at an address, or on one for its duration; see `heliostat.commands.train.train_on_ray`."""
    from heliostat.cluster import in_process
    from heliostat.commands.terminal.phases import phase

    if address:
        with in_process.connection(address, verbose) as url:
            return sweep_connected(config, display, quiet, url)
    # Ray starts while this process imports what trains.
    with in_process.starting(verbose, dashboard) as connect:
        with phase("checking the config, the task and the data", quiet):
            from heliostat.tuning.plan import plan_sweep

            plan = plan_sweep(config, in_process.machine())
        return _drive(plan, connect, display, quiet, dashboard)


def sweep_connected(config: Any, display: "MakeDisplay", quiet: bool = False, url: str = "") -> Any:
    """Run a sweep on the Ray that this process is connected to; ``url`` is that of its dashboard, if it is to be shown."""
    from heliostat.tuning.plan import plan_sweep
    from heliostat.workloads.nodes import available

    return _drive(plan_sweep(config, available()), lambda: url, display, quiet)


def _drive(plan: Any, connect: Callable[[], str], display: "MakeDisplay", quiet: bool, dashboard: bool = False) -> Any:
    from heliostat.commands.dataset.building import building
    from heliostat.tuning.drive import drive, finished

    if result := finished(plan):
        return result
    with building(plan.train.source, "opening the sweep", quiet):
        plan.check()
    with display(plan) as shown:
        show_dashboard(connect(), dashboard)
        shown.connected()
        return drive(plan, shown.update)


def _show_plan(plan: Any, as_json: bool, files: Any = None, variables: Iterable[str] = ()) -> None:
    """Show the first trials, resources, concurrency and cost of a sweep, and with a cluster the ``files`` that it gets."""
    from heliostat.commands.job import sending
    from heliostat.console import out, print_json, print_table
    from heliostat.tuning.preview import preview

    document = preview(plan)
    if as_json:
        print_json(document | ({"sent": sending.document(files, variables)} if files else {}))
        return
    keys = list(dict.fromkeys(key for params in document["first_trials"] for key in params))
    rows = [[number, *(params.get(key, "-") for key in keys)] for number, params in enumerate(document["first_trials"])]
    print_table(["trial", *keys], rows)
    for name, text in document["says"].items():
        out.print(f"# {name}: {text}", highlight=False, markup=False, soft_wrap=True)
    sending.show_requirements(plan.train.config.requirements)
    if files:
        sending.show(files, variables)


def _show_result(result: Any, as_json: bool) -> None:
    from heliostat.console import at_least, duration, out, print_json
    from heliostat.job_output import job_metadata

    if as_json:
        print_json({**result.model_dump(), "report": result.report, "best_config": result.best_config})
        return

    def say(text: str) -> None:
        out.print(text, highlight=False, markup=False, soft_wrap=True)

    pull = pull_command(result.sweep)
    counts = ", ".join(f"{count} {state}" for state, count in result.states.items())
    if result.already:
        say(f"{result.name} is already finished ({counts}); for more, raise trials, or choose another name (--set name=...)")
    else:
        why = {"time": ", at its time limit", "budget": ", at its budget"}.get(result.ended, "")
        say(f"{result.name} finished after {duration(result.seconds)}{why}: {counts}")
    spent = f"{duration(result.worker_seconds)} of workers"
    spent += f", {duration(result.gpu_seconds)} of GPUs" if result.gpu_seconds else ""
    cost = at_least(result.cost, result.known_cost or 0.0)
    say(f"  spent      {spent}" + (f", cost {cost}" if cost else ""))
    if result.best is not None:
        say(f"  best       trial {result.best}: " + "  ".join(f"{name} {value:.4f}" for name, value in result.values.items()))
        for name, value in result.params.items():
            say(f"             {name} = {value:.6g}" if isinstance(value, float) else f"             {name} = {value}")
        best = f"runs/{result.name}/best.yaml --on {job_metadata()['on']}" if pull else shlex.quote(str(result.best_config))
        say(f"  reproduce  heliostat train {best}" + (", after the next line" if pull else ""))
    if result.front:
        say(f"  front      trials {', '.join(map(str, result.front))}")
    say(f"  report     {pull} --open" if pull else f"  report     {result.report}")
