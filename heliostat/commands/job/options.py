"""The options of commands that can run as a job on a cluster."""

import argparse

from heliostat.wording import agreeing


def add_cluster_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the options of a command that can run as a job on a cluster; ``what`` is a run or a sweep."""
    parser.add_argument("--on", metavar="PROFILE", help="run it on the cluster of a profile, such as gpu")
    parser.add_argument(
        "--ephemeral", action="store_true", help=f"with --on: make a cluster for this {what} alone, and delete it afterwards"
    )
    add_over_budget(parser, "with --on: ")
    add_env(parser, "with --on: ")
    add_labels(parser, "with --on: ")


def add_preview(parser: argparse.ArgumentParser) -> None:
    """Add the option that shows a job of a command, for those that have no plan of their own to show."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="with --on: print the command and the files that would be sent, and start nothing",
    )
    parser.set_defaults(needs_cluster=("dry_run",))


def add_over_budget(parser: argparse.ArgumentParser, when: str = "") -> None:
    """Add the option that starts work although a budget is spent."""
    parser.add_argument(
        "--over-budget", action="store_true", help=f"{when}start it although a budget is spent; the history notes that"
    )


def add_env(parser: argparse.ArgumentParser, when: str = "") -> None:
    """Add the option for variables whose values nothing shows."""
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME",
        help=f"{when}give the job this variable of your shell, such as WANDB_API_KEY, without showing its value",
    )  # fmt: skip


def add_labels(parser: argparse.ArgumentParser, when: str = "") -> None:
    """Add the option for labels of a job, by which `heliostat cost` divides what a cluster cost."""
    parser.add_argument(
        "--label", action="append", default=[], metavar="KEY=VALUE",
        help=f"{when}a label for heliostat cost --by label, such as team=vision (submitter is your user name)",
    )  # fmt: skip


def refuse_cluster_options(args: argparse.Namespace) -> None:
    """Raise `UserError` for options that need ``--on``."""
    from heliostat.errors import UserError

    names = ("cron", "time_zone", "ephemeral", "over_budget", "env", "label", *getattr(args, "needs_cluster", ()))
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name, None)]
    if not args.on and given:
        own = "; here, a run has all variables of your shell" if args.env else ""
        raise UserError(
            f"{' and '.join(given)} {agreeing(len(given), 'need')} a cluster{own}", "add --on PROFILE, such as --on gpu"
        )
    if getattr(args, "time_zone", None) and not args.cron:
        raise UserError(f"--time-zone is {args.time_zone}, but there is no schedule", 'add --cron "0 2 * * *"')
    if args.label:
        from heliostat.commands.job.sending import labels_to_send

        labels_to_send(args.label)


def add_cron(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cron", metavar="SCHEDULE", help='with --on: run it on a schedule, such as "0 2 * * *" or @daily')
    parser.add_argument(
        "--time-zone",
        metavar="ZONE",
        help="the time zone of --cron, such as Europe/Berlin (default: the cluster's, mostly UTC)",
    )
