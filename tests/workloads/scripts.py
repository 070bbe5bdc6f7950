"""Scripts, and the processes they run in: what the tests of heliostat torchrun share."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil

from tests.conftest import ROOT, Command, processes_of

EXAMPLES = ROOT / "workloads/examples"
TORCHRUN = Path(sys.executable).parent / "torchrun"


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
