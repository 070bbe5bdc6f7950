"""heliostat torchrun: runs a script for torchrun or python, unchanged, on Ray workers."""

import argparse
import importlib.util
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.commands.live import add_cluster_options, refuse_cluster_options

if TYPE_CHECKING:
    from heliostat.workloads.torchrun.config import Script

PLACEMENT_OPTIONS = (
    "nproc-per-node",
    "nnodes",
    "node-rank",
    "master-addr",
    "master-port",
    "rdzv-backend",
    "rdzv-endpoint",
    "rdzv-id",
)
"""Options of torchrun for the placement of processes, which the cluster decides here."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "heliostat torchrun [options] SCRIPT [the script's arguments]"
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes on all nodes together (default: 1)")
    parser.add_argument("--cpu", type=int, default=1, metavar="N", help="CPUs a worker (default: 1)")
    parser.add_argument("--gpu", default="auto", metavar="N", help="GPUs a worker: 0, 1, or auto (1 where there are GPUs)")
    parser.add_argument("--max-restarts", type=int, default=0, metavar="N", help="restarts after a failure (default: 0)")
    parser.add_argument("--name", help="the run's name, for its checkpoints (default: the script's)")
    parser.add_argument(
        "--storage", default="runs", metavar="URI", help="the folder or URI that holds the runs (default: runs)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would run and what is sent, and start nothing")
    add_cluster_options(parser, "run")
    parser.add_argument("-m", "--module", action="store_true", help="SCRIPT is a module's name, as with python -m")
    for name in PLACEMENT_OPTIONS:
        parser.add_argument(f"--{name}", f"--{name.replace('-', '_')}", dest=name, help=argparse.SUPPRESS)
    parser.add_argument("script", metavar="SCRIPT", help="a Python file")
    parser.add_argument(
        "args", nargs=argparse.REMAINDER, metavar="...", help="the script's own arguments, passed on as they are"
    )
    parser.epilog = "example: heliostat torchrun --workers 2 train.py --epochs 10"


def run(args: argparse.Namespace) -> int:
    script = _script(args)
    if args.on:
        return _run_on_cluster(script, args)
    from heliostat.cluster import in_process
    from heliostat.workloads.nodes import available

    address = os.environ.get("RAY_ADDRESS")
    if not address:  # checked before Ray is started
        script = _fitting(script, in_process.machine())
    if args.dry_run:
        _show_plan(script, address or "a Ray for this command")
        return 0
    with in_process.connection(address) if address else in_process.session():
        from heliostat.folder import absolute, default_base, join
        from heliostat.workloads.torchrun.driver import execute

        script = _fitting(script, available()) if address else script
        execute(script, join(absolute(script.storage, default_base()), script.name), _write)
    return 0


def _fitting(script: "Script", nodes: Any) -> "Script":
    from heliostat.workloads.nodes import resolve_resources

    return script.model_copy(update={"resources": resolve_resources(script.resources, script.workers, nodes, key="--gpu")})


def _write(stream: str, line: str) -> None:
    file = sys.stdout if stream == "stdout" else sys.stderr
    try:
        print(line, file=file, flush=True)
    except BrokenPipeError:
        from heliostat.errors import Stopped

        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # else Python fails when it flushes at exit
        raise Stopped("stopped, because the reader of its output has closed the pipe") from None


def _script(args: argparse.Namespace) -> "Script":
    """The checked arguments.

    Raises:
        UserError: an argument is wrong, or the script does not exist.
    """
    from heliostat.config import validate
    from heliostat.errors import UserError
    from heliostat.workloads.torchrun.config import Script

    for name in PLACEMENT_OPTIONS:
        if (value := getattr(args, name)) is not None:
            workers = value if name == "nproc-per-node" and value.isdigit() else "N"
            raise UserError(
                f"--{name} is {value}, but the cluster decides where processes run",
                f"give the total number of processes instead: --workers {workers}",
            )
    refuse_cluster_options(args)
    stem = args.script.rpartition(".")[2] if args.module else Path(args.script).stem
    resources = {"cpu": args.cpu, "gpu": int(args.gpu) if args.gpu.isdigit() else args.gpu}
    values = {key: getattr(args, key) for key in ("script", "args", "module", "storage", "workers", "max_restarts")}
    script = validate({**values, "name": args.name or stem, "resources": resources}, Script)
    _check_script(script)
    return script


def _check_script(script: "Script") -> None:
    from heliostat.config import nearest
    from heliostat.errors import UserError

    if script.module:
        if importlib.util.find_spec(script.script.partition(".")[0]) is None:
            raise UserError(f"module {script.script} does not exist", "start from the folder that contains it, or install it")
    elif not Path(script.script).is_file():
        scripts = [str(path) for path in Path(script.script).parent.glob("*.py")]
        fix = nearest(script.script, scripts) if scripts else "give the path of a Python file"
        raise UserError(f"the script {script.script} does not exist", fix)
    elif re.search(r"^\s*(from|import) workloads\.legacy\b", Path(script.script).read_text(errors="replace"), re.MULTILINE):
        raise UserError(
            f"{script.script} imports workloads.legacy, the name of heliostat.torchrun in version 0.1",
            "write from heliostat.torchrun import resume, save",
        )


def _show_plan(script: "Script", where: str) -> None:
    from heliostat.console import out
    from heliostat.folder import join

    resources = script.resources
    for name, text in {
        "command": f"python {shlex.join(script.command)}",
        "where": where,
        "workers": f"{script.workers}, each with {resources.cpu} CPU and {resources.gpu} GPU",
        "run folder": join(script.storage, script.name),
    }.items():
        out.print(f"# {name}: {text}", highlight=False, markup=False, soft_wrap=True)


def _run_on_cluster(script: "Script", args: argparse.Namespace) -> int:
    """Submit the same command as a job on the profile's cluster, after all checks that can be made here."""
    from heliostat.cluster.jobs.follow import Work, to_stream
    from heliostat.cluster.profile import find
    from heliostat.cluster.targets.run import new_job_id, run_there
    from heliostat.commands import sending
    from heliostat.commands.live import line
    from heliostat.commands.on_cluster import HELIOSTAT, about_job, check_storage, relative_path

    profile = find(args.on)
    path = script.script if script.module else relative_path(script.script)
    check_storage(profile, script.storage)
    fitting = _fitting(script, profile.capacity)
    values = sending.variables_to_send(args.env)
    files = sending.files_to_send(path)
    if args.dry_run:
        _show_plan(fitting, f"the cluster {profile.name}")
        sending.show(files, values)
        return 0
    options = {
        "workers": script.workers, "cpu": script.resources.cpu, "gpu": script.resources.gpu,
        "max-restarts": script.max_restarts, "name": script.name, "storage": script.storage,
    }  # fmt: skip
    argv = [*HELIOSTAT, "torchrun", *(f"--{name}={value}" for name, value in options.items())]
    argv += [*(["-m"] if script.module else []), path, *script.args]
    work = Work(new_job_id(script.name.lower()), argv, files, {}, values, about_job(profile, args.on, script.name))
    with line() as shown:
        again = f"heliostat logs {args.on} {work.job_id} -f"
        run_there(profile, work, to_stream(), shown.say, args.ephemeral, again)
    return 0
