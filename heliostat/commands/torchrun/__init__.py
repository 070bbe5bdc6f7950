"""heliostat torchrun: runs a script for torchrun or python, unchanged, on Ray workers."""

import argparse
import errno
import importlib.util
import os
import re
import shlex
import stat
import sys
import threading
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.commands.job.options import add_cluster_options, refuse_cluster_options
from heliostat.commands.torchrun.options import add_options, check_options, workers_of

if TYPE_CHECKING:
    from heliostat.cluster.jobs.contents import Contents
    from heliostat.workloads.torchrun.config import Script
SHARES = 10_000
"""Ray's parts of a CPU."""
PIECES = 100
"""The last pieces of a job's output, in which the reason of a failure is searched."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "heliostat torchrun [options] SCRIPT [the script's arguments]"
    parser.add_argument("--workers", type=int, metavar="N", help="processes on all nodes together (default: 1)")
    parser.add_argument("--cpu", type=_number, default=1, metavar="N", help="CPUs a worker, such as 2 or 0.5 (default: 1)")
    parser.add_argument("--gpu", default="auto", metavar="N", help="GPUs a worker: 0, 1, or auto (1 where there are GPUs)")
    parser.add_argument("--max-restarts", type=int, default=0, metavar="N", help="restarts after a failure (default: 0)")
    parser.add_argument(
        "--requirements", metavar="FILE", help="packages that a cluster installs beside the image's, as pip writes them"
    )
    parser.add_argument("--name", help="the run's name, for its checkpoints (default: the script's)")
    parser.add_argument(
        "--storage", default="runs", metavar="URI", help="the folder or URI that holds the runs (default: runs)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would run and what is sent, and start nothing")
    add_cluster_options(parser, "run")
    parser.add_argument("-m", "--module", action="store_true", help="SCRIPT is a module's name, as with python -m")
    add_options(parser)
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
        script = _fitting_here(script, in_process.machine()[0])
    if args.dry_run:
        _show_plan(script, address or "a Ray for this command")
        return 0
    from heliostat.commands import storage_at
    from heliostat.folder import Folder, join
    from heliostat.workloads.torchrun.arguments import check_arguments, check_free

    run_folder = join(storage_at(script.storage), script.name)
    check_arguments(Folder.at(run_folder), script.args)
    check_free(Folder.at(run_folder))
    with in_process.connection(address) if address else in_process.session():
        from heliostat.workloads.torchrun.driver import execute

        script = _fitting(script, available()) if address else script
        terminal = {name: stream.isatty() for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr))}
        execute(script, run_folder, _write, terminal, _stdin())
    return 0


def _number(text: str) -> int | float:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, such as 2 or 0.5") from None


def _fitting(script: "Script", nodes: Any) -> "Script":
    from heliostat.workloads.nodes import resolve_resources

    return script.model_copy(update={"resources": resolve_resources(script.resources, script.workers, nodes, key="--gpu")})


def _fitting_here(script: "Script", machine: dict[str, float]) -> "Script":
    """The script on this machine, whose CPUs more processes may share than there are, as with torchrun.

    Raises:
        UserError: one process needs more CPUs than there are, or all together more GPUs.
    """
    from heliostat.workloads.nodes import resolve_resources

    cpu = resolve_resources(script.resources.model_copy(update={"gpu": 0}), 1, [machine]).cpu
    without = script.resources.model_copy(update={"cpu": 0})
    resources = resolve_resources(without, script.workers, [machine], key="--gpu")
    share = int(machine["CPU"] / script.workers * SHARES) / SHARES if script.workers > 0 else 0
    return script.model_copy(update={"resources": resources.model_copy(update={"cpu": min(cpu, share)})})


def _write(stream: str, text: str) -> None:
    """Write what a script has printed, byte for byte."""
    file = sys.stdout if stream == "stdout" else sys.stderr
    try:
        file.flush()
        file.buffer.write(text.encode(errors="surrogateescape"))
        file.buffer.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # else Python fails when it flushes at exit
        if error.errno == errno.EPIPE:
            from heliostat.errors import Stopped

            raise Stopped("stopped, because the reader of its output has closed the pipe") from None
        # The terminal has been closed, which SIGHUP reports; the script has its time to save.


def _stdin(number: int = 0) -> str:
    """The path by which another process opens the standard input of this one; empty if it must not, or cannot."""
    try:
        if os.isatty(number):
            # A job in the background must not take what is typed for the shell.
            return os.ttyname(number) if os.tcgetpgrp(number) == os.getpgrp() else ""
        mode = os.fstat(number).st_mode
    except OSError:  # closed
        return ""
    if stat.S_ISSOCK(mode):  # as under ssh; it cannot be opened
        number = _piped(number)
    return f"/proc/{os.getpid()}/fd/{number}" if sys.platform == "linux" else ""


def _piped(number: int) -> int:
    """A pipe with what comes from a file descriptor."""
    reader, writer = os.pipe()

    def copy() -> None:
        while data := os.read(number, 1 << 16):
            os.write(writer, data)
        os.close(writer)

    threading.Thread(target=copy, daemon=True).start()
    return reader


def _script(args: argparse.Namespace) -> "Script":
    """The checked arguments.

    Raises:
        UserError: an argument is wrong, or the script does not exist.
    """
    from heliostat.config import validate
    from heliostat.environment import IN_A_JOB
    from heliostat.requirements import provide
    from heliostat.workloads.torchrun.config import Script

    check_options(args)
    refuse_cluster_options(args)
    stem = args.script.rpartition(".")[2] if args.module else Path(args.script).stem
    name = args.name or re.sub(r"[^\w.-]+", "-", stem).lstrip("-.")[:100] or "script"
    resources = {"cpu": args.cpu, "gpu": int(args.gpu) if args.gpu.isdigit() else args.gpu}
    values = {key: getattr(args, key) for key in ("script", "args", "module", "storage", "max_restarts", "requirements")}
    script = validate({**values, "workers": workers_of(args), "name": name, "resources": resources}, Script)
    _check_script(script)
    if script.requirements and not args.on and IN_A_JOB not in os.environ:  # in a job, the workers install them
        provide(script.requirements)
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
    elif Path(script.script).suffix in (".sh", ".bash", ".zsh"):
        raise UserError(
            f"{script.script} is a shell script, but must be a Python file",
            f"write heliostat torchrun instead of torchrun in it, and start it with bash {script.script}",
        )
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
    from heliostat.cluster.jobs.contents import why_not_sent
    from heliostat.cluster.jobs.follow import Work, new_job_id, to_stream
    from heliostat.cluster.profile import find
    from heliostat.cluster.targets.run import run_there
    from heliostat.commands.job import needed, not_sent, sending
    from heliostat.commands.job.on_cluster import HELIOSTAT, about_job, check_storage, relative_path
    from heliostat.commands.terminal.live import line
    from heliostat.errors import JobFailed, some
    from heliostat.folder import expanded

    profile = find(args.on)
    path = script.script if script.module else relative_path(script.script)
    values = sending.variables_to_send(args.env)
    check_storage(profile, expanded(script.storage, needed.job_variables(profile, values), "--storage"))
    fitting = _fitting(script, profile.capacity)
    wheels = sending.requirements_to_send(script.requirements, profile.ray_version) if script.requirements else []
    files = sending.files_to_send(path, *wheels)
    needed.check_sent(files, needed.module_files(script.script) if script.module else {})
    _report_not_sent(files, values)
    if args.dry_run:
        _show_plan(fitting, f"the cluster {profile.name}")
        sending.show(files, values)
        return 0
    options = {
        "workers": script.workers, "cpu": script.resources.cpu, "gpu": script.resources.gpu,
        "max-restarts": script.max_restarts, "name": script.name, "storage": script.storage,
    }  # fmt: skip
    options |= {"requirements": script.requirements} if script.requirements else {}
    argv = [*HELIOSTAT, "torchrun", *(f"--{name}={value}" for name, value in options.items())]
    argv += [*(["-m"] if script.module else []), path, *script.args]
    stem = re.sub(r"[^a-z0-9_.-]+", "-", script.name.lower()).strip("-") or "script"
    job, stopped = about_job(profile, args.on, script.name, args.label, args.over_budget), "its output says what it has saved"
    work = Work(new_job_id(stem), argv, files, secret_env=values, metadata=job, stopped=stopped)
    write, last = to_stream(), deque[str](maxlen=PIECES)

    def keep(text: str) -> None:
        last.append(text)
        write(text)

    with line() as shown:
        again = f"heliostat logs {args.on} {work.job_id} -f"
        try:
            run_there(profile, work, keep, shown.say, args.ephemeral, again, args.over_budget)
        except JobFailed as error:
            if names := not_sent.missed("".join(last), files):
                error.add_note(f"{some(names)} is here, but was not sent, because {why_not_sent(files, names[0])}")
                error.add_note(f"fix: add a line !{names[0]} to .rayignore, or keep the data on the storage of the cluster")
            raise
    return 0


def _report_not_sent(files: "Contents", sent: Collection[str]) -> None:
    """Report on standard error what of this machine the script names, but does not get."""
    from heliostat.commands.job import not_sent
    from heliostat.console import err
    from heliostat.errors import some

    text = not_sent.source_text(files)
    lines = []
    if names := not_sent.ignored(text, files):
        lines.append(
            f"not sent, because an ignore file excludes it: {some(names, 5)} (to send it, add !{names[0]} to .rayignore)"
        )
    if names := not_sent.variables(text, os.environ, sent):
        options = " ".join(f"--env {name}" for name in names[:5])
        lines.append(f"not sent, because --env does not name it: {some(names, 5)} (to send it, add {options})")
    for each in lines:
        err.print(f"heliostat: {each}", highlight=False, markup=False, soft_wrap=True)
