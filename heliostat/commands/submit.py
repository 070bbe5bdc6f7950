"""heliostat submit: runs any command as a job on a profile's cluster."""

import argparse
import shlex

from heliostat.commands.job.options import add_env, add_labels, add_over_budget
from heliostat.commands.terminal.live import add_profile, line


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    parser.add_argument(
        "entrypoint",
        nargs="+",
        metavar="COMMAND",
        help="the command to run, after --; a single argument is a line for the shell",
    )
    parser.add_argument("--ephemeral", action="store_true", help="create a cluster for this job only, and delete it afterwards")
    parser.add_argument("--detach", action="store_true", help="print the job's id, and do not wait for the job")
    parser.add_argument("--dry-run", action="store_true", help="print the files that would be sent, and start nothing")
    add_over_budget(parser)
    add_env(parser)
    add_labels(parser)
    parser.epilog = """examples: heliostat submit gpu -- python -m heliostat evaluate digits;
        heliostat submit gpu -- "pip install einops && python train.py" (as with ssh, one argument is a line for the shell)"""


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.jobs.follow import Work, new_job_id, submit, to_stream
    from heliostat.cluster.profile import find
    from heliostat.cluster.targets.run import before_submission, open_target, run_there, woken
    from heliostat.commands.job import sending
    from heliostat.commands.job.on_cluster import about_job
    from heliostat.console import out
    from heliostat.errors import UserError

    profile = find(args.profile, args.set)
    if args.detach and args.ephemeral:
        raise UserError("--detach with --ephemeral would leave the cluster running", "remove one of them")
    values = sending.variables_to_send(args.env)
    sending.labels_to_send(args.label)  # before anything is packed
    files = sending.files_to_send(isolated=False)
    if args.dry_run:
        command = args.entrypoint[0] if len(args.entrypoint) == 1 else shlex.join(args.entrypoint)
        out.print(f"# command: {command}", highlight=False, markup=False, soft_wrap=True)
        sending.show(files, values)
        return 0
    job = about_job(profile, args.profile, labels=args.label, over_budget=args.over_budget)
    work = Work(new_job_id("job"), args.entrypoint, files, secret_env=values, metadata=job)
    again = f"heliostat logs {args.profile} {work.job_id} -f"
    with line() as shown:
        if args.detach:
            with before_submission(work.job_id):
                dashboard = woken(open_target(profile), shown.say, args.over_budget, work.job_id)
                submit(dashboard, work, again=again)
            out.print(work.job_id, highlight=False)
            return 0
        run_there(profile, work, to_stream(), shown.say, args.ephemeral, again, args.over_budget)
    return 0
