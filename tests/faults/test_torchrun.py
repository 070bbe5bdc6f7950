"""A script with the three lines, on nodes that are drained."""

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from tests.conftest import end_group, wait_for
from tests.faults.conftest import Breakable

ARGS = ("steps.py", "100000", "1000", "0")
"""So many steps that no test waits for the last, a checkpoint by itself only every thousand seconds, exit code 0."""


@contextmanager
def running(cluster: Breakable, *flags: str) -> Iterator["subprocess.Popen[str]"]:
    """The script as a job there; what a test that has failed leaves of it would keep the nodes from the next one."""
    process = cluster.command.start("torchrun", "--on", "profile.yaml", *flags, *ARGS)
    try:
        yield process
    finally:
        end_group(process)
        for left in cluster.processes("torchrun", "steps.py"):
            with suppress(psutil.NoSuchProcess):
                left.kill()
        wait_for(lambda: not cluster.processes("-u", "steps.py"), "the scripts' end")


def rank_zero(cluster: Breakable) -> list[psutil.Process]:
    return [process for process in cluster.processes("-u", "steps.py") if rank_of(process) == "0"]


def rank_of(process: psutil.Process) -> str:
    """Empty of a process that ends or begins at this moment."""
    try:
        return "" if "heliostat" in process.cmdline() else process.environ().get("RANK", "")
    except psutil.Error:
        return ""


def node_of(process: psutil.Process) -> str:
    raylet = psutil.Process(int(process.environ()["RAY_RAYLET_PID"]))  # no ancestor of a worker that was forked
    name: str = next(word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--node_id="))
    return name


def printed(process: "subprocess.Popen[str]", until: int) -> list[int]:
    """The steps that have been printed, up to one."""
    assert process.stdout
    steps, lines = list[int](), list[str]()
    while not steps or steps[-1] < until:
        line = process.stdout.readline()
        assert line, "it ended: " + "".join([*lines[-20:], *process.communicate(timeout=300)])
        lines.append(line)
        if match := re.match(r"\[rank 0\] step (\d+) (\d+)$", line):
            steps.append(int(match[1]))
            assert int(match[2]) == 2 * steps[-1]
    return steps


def test_a_script_with_the_three_lines_loses_no_step_to_a_node_that_is_drained(breakable: Breakable) -> None:
    """Though it may not be started again for a failure."""
    with running(breakable, "--workers", "2", "--gpu", "1") as process:
        steps = printed(process, until=20)
        (script,) = rank_zero(breakable)
        node = node_of(script)
        breakable.drain(node)
        again: list[psutil.Process] = []
        while not again:
            before = printed(process, until=steps[-1] + 1)
            again = [other for other in rank_zero(breakable) if other != script]
            steps += before
        steps += printed(process, until=steps[-1] + 20)
        assert node_of(again[0]) != node
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
        wait_for(lambda: not breakable.processes("-u", "steps.py"), "the scripts to end by themselves")
    assert process.returncode == 130, out + err
    assert steps == list(range(1, len(steps) + 1)), "each step once"


def test_ctrl_c_here_ends_a_script_there_with_a_checkpoint(breakable: Breakable) -> None:
    with running(breakable, "--workers", "1", "--gpu", "1", "--name", "stopped") as process:
        assert process.stdout
        wait_for(lambda: bool(rank_zero(breakable)), "the script")
        while not process.stdout.readline().startswith("step 10 "):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
        wait_for(lambda: not breakable.processes("-u", "steps.py"), "the scripts to end by themselves")
    assert process.returncode == 130, out + err
    match = re.search(r"heliostat: step (\d+) is saved", out + err)
    assert match, out + err
    assert f"the same command resumes from the last checkpoint, step-{int(match[1]):08d}" in out + err
    assert (breakable.storage / f"runs/stopped/checkpoints/step-{int(match[1]):08d}/manifest.json").exists()
