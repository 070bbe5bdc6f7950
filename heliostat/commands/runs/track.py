"""heliostat runs track: sends the record of a run or a sweep to trackers: later than it was made, or what is missing there."""

import argparse
from typing import Any

from heliostat.commands.job.options import add_cluster_options, add_preview, refuse_cluster_options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="RUN", help="a run's or a sweep's name, or its folder or URI")
    parser.add_argument("--storage", metavar="DIR", default="runs", help="where the runs are (default: runs)")
    parser.add_argument(
        "--to", action="append", default=[], metavar="TRACKER",
        help="tensorboard, mlflow, wandb or module:Class (default: those of its config)",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the tracker, such as experiment=digits"
    )
    add_cluster_options(parser, "command")
    add_preview(parser)
    parser.set_defaults(json=False)
    parser.epilog = "example: heliostat runs track digits --to mlflow --set uri=http://127.0.0.1:5000"


def run(args: argparse.Namespace) -> int:
    refuse_cluster_options(args)
    if args.on:
        from heliostat.commands.job.on_cluster import send_for_run

        return send_for_run(args, ["runs", "track"], [part for name in args.to for part in ("--to", name)])
    from heliostat.commands import find_folder
    from heliostat.commands.runs.following import source_of
    from heliostat.console import out
    from heliostat.errors import NoAnswer, UserError, combined
    from heliostat.folder import default_base
    from heliostat.workloads.run.lease import Observer
    from heliostat.workloads.tracking.choice import maker, resolved
    from heliostat.workloads.tracking.send import Session, reason
    from heliostat.workloads.tracking_config import name_of

    folder = find_folder(args.run_name, args.storage)
    configured, reader = source_of(folder)
    if Observer(folder).is_driven():
        raise UserError(f"{args.run_name} is running, and its driver sends what there is to send", "wait until it has ended")
    problems: list[UserError] = []
    trackers = resolved(_chosen(args, configured), default_base(), here=True, problems=problems)
    if problems:
        raise combined(problems, "the command")
    for item in trackers:
        session = Session(maker(item))
        try:
            session.update(reader()(_state(folder)))
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:  # of any library or server
            raise NoAnswer(f"{name_of(item)} has not taken {args.run_name}: {reason(error)}", "try again later") from None
        out.print(f"{name_of(item)} has {args.run_name}: {session.where}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _chosen(args: argparse.Namespace, configured: Any) -> list[Any]:
    """The trackers that are named, with the options of the config where it has them, or those of the config.

    Raises:
        UserError: none is named, and the config has none; options are given for several.
    """
    from heliostat.config import assignments
    from heliostat.errors import UserError
    from heliostat.workloads.tracking_config import name_of, options_of

    known = {name_of(item): options_of(item) for item in configured}
    names = args.to or list(known)
    if not names:
        raise UserError(f"{args.run_name} has no tracking in its config", "name a tracker: --to mlflow")
    options = assignments(args.set)
    if options and len(names) > 1:
        raise UserError(f"--set is given for {len(names)} trackers: {', '.join(names)}", "name one with --to")
    return [{name: {**known.get(name, {}), **options}} for name in names]


def _state(folder: Any) -> str:
    """How a run, a sweep or a script without a driver has ended."""
    from heliostat.commands import SCRIPT
    from heliostat.workloads.run.record import CONFIG, RESULT
    from heliostat.workloads.run.so_far import result_of

    if folder.exists(SCRIPT):
        from heliostat.workloads.torchrun.record import script_result

        return script_result(folder).state
    if folder.exists(CONFIG):
        return result_of(folder, running=False).state
    return "finished" if folder.exists(RESULT) else "interrupted"
