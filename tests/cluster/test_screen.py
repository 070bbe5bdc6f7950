"""The live screen of a cluster fits the terminal, and says what it leaves out."""

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial

import pytest

from heliostat.cluster.jobs.dashboard import Job
from heliostat.cluster.targets.status import Group, Node, State
from heliostat.commands.terminal.screen import screen
from tests.conftest import Command, wait_for

NOW = 1_795_780_346.0
LONG = "the group needs 8 nodes with nvidia.com/gpu, of which the quota vision/gpus has 4 left until another job ends"


def state(nodes: int = 3, jobs: int = 2) -> State:
    return State(
        "gpu", "kubernetes", "ready", ray_version="2.60.0",
        groups=[Group("a-group-with-quite-a-long-name-for-eighty-columns", 0, 12, 8, 3, 1, 2.5, LONG)],
        nodes=[
            Node(f"gpu-a-group-with-quite-a-long-name-for-eighty-columns-worker-{n:04}", "a-group-with", "gpu-1", "ready",
                 2, 2.0, 4, 1.0, None, 2.5)
            for n in range(nodes)
        ],
        jobs=[
            Job(f"digits-1127-11525{n}-bfdf", "RUNNING", "python -m heliostat train " + "x" * 100, started=NOW - 60,
                said="step 100  loss 0.1\x1b[2J")
            for n in range(jobs)
        ],
        waits={"digits-1127-115250-bfdf": f"waits for {LONG}"},
    )  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_every_line_fits_and_what_is_cut_has_an_ellipsis(width: int) -> None:
    lines = screen(state(), NOW, width, None)
    assert max(map(len, lines)) <= width
    assert not any("\x1b" in line for line in lines)
    text = " ".join(" ".join(lines).split())
    assert text.count(LONG) == 2
    assert f"waits for {LONG}" in text, "causes are wrapped, never cut"
    assert "GPUs 6 used of 6 paid for nodes 3 jobs 2, 1 waiting $7.50 an hour" in text
    whole = " ".join(screen(state(), NOW, 1000, None))
    for name in ("worker-0002", "columns"):
        assert name in whole
    assert "…" in text
    assert "…" not in whole


@pytest.mark.parametrize("height", range(2, 40))
def test_what_does_not_fit_the_height_is_counted_nodes_first(height: int) -> None:
    everything = screen(state(nodes=9, jobs=5), NOW, 80, None)
    lines = screen(state(nodes=9, jobs=5), NOW, 80, height)
    assert len(lines) <= height
    assert lines[:2] == everything[:2], "the state, GPUs and money are always there"
    if len(everything) > height >= 5:
        counted = [line for line in lines if "a higher terminal has them" in line]
        assert counted
        assert "nodes" in counted[-1]
    elif height >= len(everything):
        assert lines == everything


def test_an_outdated_screen_says_so_and_an_absent_cluster_how_to_make_it() -> None:
    assert "  outdated: no answer" in screen(state(), NOW, 80, None, "no answer")
    assert screen(State("gpu", "local", "absent"), NOW, 80, 24)[1] == "  create it: heliostat up gpu"


PROFILE = "name: none\nplatform: local\nstorage: {uri: runs}\ngroups: [{name: cpu, max: 1}]\n"


@pytest.mark.parametrize(
    ("terminal", "more", "look"), [(True, [], b"create it"), (False, [], b"create it"), (True, ["--json"], b'"outdated": ""')]
)
def test_ctrl_c_ends_it_and_a_pipe_gets_blocks(terminal: bool, more: list[str], look: bytes, command: Command) -> None:
    (command.cwd / "none.yaml").write_text(PROFILE)
    reader, writer = pty.openpty() if terminal else os.pipe()
    watch = [sys.executable, "-m", "heliostat", "status", "none.yaml", "--watch", *more]
    environment = {**command.env, "TERM": "xterm", "NO_COLOR": "1"}
    # What is started in the background of a shell ignores Ctrl-C, and so would what it starts.
    default = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    child = subprocess.Popen(watch, cwd=command.cwd, env=environment, stdout=writer, preexec_fn=default)
    os.close(writer)
    os.set_blocking(reader, False)
    seen = bytearray()

    def take() -> None:
        with suppress(OSError):  # there is nothing yet; or of a terminal, the other end is closed
            seen.extend(os.read(reader, 1 << 16))

    def looked_twice() -> bool:
        assert child.poll() is None, "it runs until Ctrl-C"
        take()
        return seen.count(look) >= 2

    def ended() -> bool:
        take()  # else it would wait for room in the terminal
        return child.poll() is not None

    try:
        wait_for(looked_twice, "the second look")
        child.send_signal(signal.SIGINT)
        wait_for(ended, "its end")
        take()
        assert child.returncode == 0
    finally:
        child.kill()
        child.wait()
        os.close(reader)
    assert (b"\x1b[" in seen) == (terminal and not more)
    if more:
        assert {json.loads(line)["state"] for line in seen.splitlines()} == {"absent"}
    assert b"\x1b[31m" not in seen
