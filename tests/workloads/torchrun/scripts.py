"""Scripts, and the processes they run in: what the tests of heliostat torchrun share."""

import atexit
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from heliostat.environment import RUN
from heliostat.folder import Folder
from heliostat.workloads.torchrun import measured, this_run
from tests.conftest import ROOT, Command, processes_of

EXAMPLES = ROOT / "workloads/examples"
TORCHRUN = Path(sys.executable).parent / "torchrun"


@contextmanager
def as_script(run: Path) -> Iterator[Folder]:
    """This process is a script with this run folder; what it holds is released at the end."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv(RUN, str(run))
        for kind, values in (
            (this_run.State, {"lease": None, "described": False}),
            (measured._This, {"record": None, "begins": None}),
        ):
            for name, value in values.items():
                patch.setattr(kind, name, value)
        patch.setattr(this_run, "handle_signals", lambda: None)
        patch.setattr(atexit, "register", stack.callback)
        yield Folder.at(run)


@contextmanager
def importable(folder: Path, module: str, code: str) -> Iterator[Path]:
    """A module of the user's own in a folder, for this process and those that it starts."""
    (folder / f"{module}.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=":")
        patch.syspath_prepend(folder)
        yield folder


def torchrun(command: Command, *args: str | Path) -> list[str]:
    """What the script prints under the real torchrun with two processes, sorted, as the order of ranks is random."""
    line = [str(TORCHRUN), "--standalone", "--nproc-per-node=2", *map(str, args)]
    env = {**command.env, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=command.cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines())


def without_rank(out: str) -> list[str]:
    return sorted(re.sub(r"^\[rank \d\] ", "", line) for line in out.splitlines())


def errors(err: str) -> list[str]:
    """The lines without the one that only a slow machine prints."""
    return [line for line in err.splitlines() if not re.fullmatch(r"heliostat: waiting for \d workers to start", line)]


def script(command: Command, name: str, text: str) -> str:
    (command.cwd / name).write_text(text)
    return name


def ranks_of(command: Command, name: str) -> dict[str, psutil.Process]:
    """The processes of a script by their rank."""
    found = {}
    for process in processes_of(command.env):
        try:
            # Not the processes of its DataLoaders, which are in the same session.
            if (
                name in " ".join(process.cmdline()[2:])
                and process.cmdline()[1:2] == ["-u"]
                and process.pid == process_group(process)
            ):
                found[process.environ()["RANK"]] = process
        except psutil.NoSuchProcess:
            continue
    return found


def process_group(process: psutil.Process) -> int:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return 0
