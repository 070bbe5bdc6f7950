"""The parts of ``heliostat torchrun`` alone: the merged output, the hub, and checkpoints without Ray."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from heliostat.errors import JobFailed
from heliostat.folder import Folder
from heliostat.workloads.run import checkpoint
from heliostat.workloads.torchrun import script
from heliostat.workloads.torchrun.arguments import is_longer
from heliostat.workloads.torchrun.hub import MAX_BYTES, SAVED_AND_STOPPED, Hub
from heliostat.workloads.torchrun.process import CHILD
from heliostat.workloads.training import rendezvous
from tests.conftest import Command, end_group, wait_for
from tests.workloads.torchrun.scripts import as_script

COUNTS = """
import sys, time
import torch
from heliostat.torchrun import resume, save
model = torch.nn.Linear(2, 1)
best = {"of": 0}
for step in range(resume(model=model, best=best), int(sys.argv[1])):
    with torch.no_grad():
        model.weight.fill_(step + 1)
    best["of"] = step + 1
    print("step", step + 1, model.weight[0, 0].item(), best["of"], flush=True)
    save(step + 1, model=model, best=best)
print("has", model.weight[0, 0].item(), best, flush=True)
"""


@pytest.fixture
def counts(command: Command) -> Command:
    (command.cwd / "counts.py").write_text(COUNTS)
    return command


def python(command: Command, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *args], cwd=command.cwd, env=dict(command.env), capture_output=True, text=True, timeout=300
    )


def test_the_same_command_resumes_and_two_checkpoints_are_kept(counts: Command) -> None:
    assert python(counts, "counts.py", "4").returncode == 0
    run = counts.cwd / "runs/counts"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]
    again = python(counts, "counts.py", "4")
    assert again.stdout == "has 4.0 {'of': 4}\n"
    assert f"heliostat: resumes from step 4, {run}/checkpoints/step-00000004" in again.stderr


@pytest.mark.parametrize("how", ["cut", "flipped", "deleted", "manifest"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(counts: Command, how: str) -> None:
    assert python(counts, "counts.py", "4").returncode == 0
    newest = counts.cwd / "runs/counts/checkpoints/step-00000004"
    (state,) = [path for path in newest.iterdir() if path.suffix == ".pt"]
    data = state.read_bytes()
    if how == "cut":
        state.write_bytes(data[:-10])
    elif how == "flipped":
        state.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    elif how == "deleted":
        state.unlink()
    else:
        (newest / "manifest.json").write_text("{}")
    again = python(counts, "counts.py", "4")
    assert again.returncode == 0, again.stderr
    assert "step-00000004 is damaged" in again.stderr
    assert "the one before is used" in again.stderr
    assert again.stdout == "step 4 4.0 4\nhas 4.0 {'of': 4}\n"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Folder]:
    """This process is a script with this run folder."""
    with as_script(tmp_path / "run") as run:
        yield run


def filled(value: float) -> torch.nn.Linear:
    model = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(model.weight, value)
    return model


@pytest.mark.parametrize("cut", ["state", "manifest"])
def test_a_save_of_the_same_step_that_is_cut_leaves_the_checkpoint_before(
    here: Folder, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.save(1, model=filled(1.0))
    replace = os.replace

    def cuts(source: str, target: str) -> None:
        if Path(target).name.startswith(cut):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cuts)
        with pytest.raises(KeyboardInterrupt):
            script.save(1, model=filled(2.0))
    model = filled(0.0)
    assert script.resume(model=model) == 1
    assert model.weight[0, 0] == 1.0
    script.save(1, model=filled(3.0))
    assert script.resume(model=model) == 1
    assert model.weight[0, 0] == 3.0
    assert len((here / "checkpoints/step-00000001").names()) == 2, "what the interrupted save wrote is deleted"


def test_a_nan_is_neither_saved_nor_resumed_from(here: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    model = filled(1.0)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    script.resume(model=model)
    script.save(1, model=model, best={"loss": torch.tensor(torch.inf)})
    with pytest.raises(JobFailed, match="step 2 is not saved: model/weight became NaN"):
        script.save(2, model=filled(torch.nan), best={})
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    optimizer.state[model.weight]["exp_avg"][0] = torch.nan
    with pytest.raises(JobFailed, match="optimizer/state/0/exp_avg became NaN"):
        script.save(2, model=model, optimizer=optimizer)
    assert [c.step for c in checkpoint.committed(here)] == [1]
    place = checkpoint.folder_of(here, 2)
    state = {"model": {}, "optimizer": {}, "rows": {}, "progress": {"model": filled(torch.nan).state_dict(), "best": {}}}
    checkpoint.commit(place, 2, {}, {"state.pt": checkpoint.write_state(place, "state.pt", state)})  # of an earlier version
    assert script.resume(model=model, best={}) == 1
    assert "step-00000002 is damaged: model/weight is NaN or infinite; the one before is used" in capsys.readouterr().err
    checkpoint.folder_of(here, 1).delete()
    with pytest.raises(SystemExit):
        script.resume(model=model, best={})
    assert "no checkpoint in" in capsys.readouterr().err


def test_the_checkpoints_of_other_arguments_are_refused(counts: Command) -> None:
    assert python(counts, "counts.py", "2").returncode == 0
    other = python(counts, "counts.py", "3")
    assert other.returncode == 2
    assert "saved with the arguments ['2'], but the arguments are ['3']" in other.stderr
    assert "--name" in other.stderr
    assert "Traceback" not in other.stderr
    (counts.cwd / "runs/counts/script.json").unlink()
    assert python(counts, "counts.py", "3").stdout == "step 3 3.0 3\nhas 3.0 {'of': 3}\n"


@pytest.mark.parametrize(
    ("saved", "now", "longer"),
    [
        ("--epochs 3 --lr 0.1", "--epochs 5 --lr 0.1", True),
        ("--lr=0.1 --max-steps=30", "--lr=0.1 --max-steps=40", True),
        ("--epochs=3", "--epochs 5", True),
        ("--epochs 5", "--epochs 3", False),
        ("--epochs 3 --lr 0.1", "--epochs 5 --lr 0.2", False),
        ("--epochs 3", "--epochs 5 --lr 0.2", False),
        ("--workers 3", "--workers 5", False),
        ("3", "5", False),
    ],
)
def test_only_a_longer_training_resumes_with_other_arguments(saved: str, now: str, longer: bool) -> None:
    assert is_longer(saved.split(), now.split()) == longer


def test_other_parts_than_were_saved_are_refused(counts: Command) -> None:
    assert python(counts, "counts.py", "2").returncode == 0
    (counts.cwd / "counts.py").write_text(COUNTS.replace("resume(model=model, best=best)", "resume(model=model)"))
    other = python(counts, "counts.py", "2")
    assert other.returncode == 2
    assert "has model, best, but the script resumes model" in other.stderr


def test_what_cannot_be_loaded_again_is_refused_when_it_is_saved(command: Command) -> None:
    (command.cwd / "bad.py").write_text(
        "import argparse\nfrom heliostat.torchrun import save\nsave(1, extra={'args': argparse.Namespace(a=1)})\n"
    )
    done = python(command, "bad.py")
    assert done.returncode == 1
    assert "a part to save holds an object that cannot be loaded again" in done.stderr
    assert "vars(args) instead of args" in done.stderr
    assert not list(command.cwd.rglob("manifest.json"))


def test_sigterm_ends_it_after_the_next_save_and_a_second_one_is_kept_out(counts: Command) -> None:
    (counts.cwd / "counts.py").write_text(COUNTS.replace("    save(", "    time.sleep(0.05)\n    save("))
    with counts.python("counts.py", "100000") as process:
        try:
            # Any: each one is there only until the two after it are saved.
            wait_for(lambda: any(counts.cwd.glob("runs/counts/checkpoints/*/manifest.json")), "a checkpoint")
            second = python(counts, "counts.py", "100000")
            assert second.returncode == 2
            assert f"process {process.pid}" in second.stderr
            assert "--name" in second.stderr
            process.terminate()
            out, err = process.communicate(timeout=300)
        finally:
            end_group(process)
    last = len(out.splitlines())
    assert process.returncode == 128 + signal.SIGTERM
    assert f"heliostat: step {last} is saved, and the script exits, as requested" in err
    assert (counts.cwd / f"runs/counts/checkpoints/step-{last:08d}/manifest.json").exists()
    assert not (counts.cwd / "runs/counts/lease.json").exists()


def test_a_save_is_retried_while_the_disk_is_full(counts: Command, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (2 << 20))
    counts = Command(counts.cwd, {**counts.env, "HELIOSTAT_RUN": str(small_disk / "run")})
    with counts.python("counts.py", "2") as process:
        try:
            assert process.stderr
            assert "cannot save yet" in process.stderr.readline()
            ballast.unlink()
            out, _ = process.communicate(timeout=300)
        finally:
            end_group(process)
    assert process.returncode == 0
    assert out.endswith("has 2.0 {'of': 2}\n")


def test_a_child_ends_with_its_parent_even_if_that_is_killed() -> None:
    code = f"""
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
child = subprocess.Popen([sys.executable, "-IS", {str(CHILD)!r}, str(os.getpid()), *sleep])
print(child.pid, flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        wait_for(lambda: "time.sleep" in " ".join(child.cmdline()), "the child to become its command")
        parent.kill()
        wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child's end")


def test_the_hub_blocks_when_it_is_full_and_ignores_earlier_attempts() -> None:
    async def scene() -> None:
        hub = Hub()
        await hub.attempt(1, 2)
        one = asyncio.create_task(hub.join(1, 1, {"rank": 1}))
        assert await hub.join(1, 0, {"rank": 0}) == [{"rank": 0}, {"rank": 1}] == await one
        flood = asyncio.create_task(hub.send(1, 0, [(1.0, "stdout", bytes(MAX_BYTES))]))
        await asyncio.sleep(0.01)
        assert not flood.done(), "the script blocks while nothing reads"
        assert len(await hub.take(1)) == 1
        assert await flood == ""
        assert await hub.send(1, 1, [(2.0, "exit", 3)]) == "failed"
        first = asyncio.create_task(hub.ended(1, 1))
        await asyncio.sleep(0.01)
        assert not first.done(), "who fails first waits, so that the others end in order"
        assert await hub.send(1, 0, []) == "failed"
        await hub.send(1, 0, [(3.0, "exit", -15)])
        await hub.ended(1, 0)
        await first
        assert await hub.take(1) == [(2.0, 1, "exit", 3), (3.0, 0, "exit", -15)]
        await hub.attempt(2, 2)
        assert await hub.send(1, 0, [(4.0, "stdout", b"late")]) == "failed"
        assert await hub.take(0) == []
        await hub.order("stop")
        assert await hub.send(2, 0, []) == "stop"
        assert await hub.send(2, 0, [(5.0, "exit", 0)]) == "stop", "the others may still save"
        assert await hub.send(2, 0, [(6.0, "exit", SAVED_AND_STOPPED)]) == "hurry", "rank 0 has saved for all"

    asyncio.run(scene())


WORKING = """
import threading, zlib
from pathlib import Path
import heliostat.torchrun

def thread():
    Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("pt_gloo_runloop")
    begun.set()
    zlib.compress(bytes(range(256)) * 200_000, 9)  # without Python's lock
    print("released", flush=True)

begun = threading.Event()
threading.Thread(target=thread, daemon=True).start()
begun.wait()
"""


def test_python_ends_after_a_thread_of_gloo_has_released_its_tensors(command: Command) -> None:
    """Else such a process may be aborted; see `heliostat.workloads.torchrun.settle`."""
    (command.cwd / "working.py").write_text(WORKING)
    with command.python("working.py") as process:
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (0, "released\n", "")


TOGETHER = """
import sys
import torch, torch.distributed as dist
from heliostat.torchrun import resume, save
dist.init_process_group("gloo")
counts = {"steps": 0}
for step in range(resume(counts=counts), 10**9):
    dist.all_reduce(torch.ones(1))
    counts["steps"] = step + 1
    print(step + 1, flush=True)
    save(step + 1, every=1000, counts=counts)
"""


def test_a_rank_that_is_asked_to_exit_before_rank_zero_is_continues_until_that_has_saved(command: Command) -> None:
    """Each exit of a rank is an error in the next step of the others.

    They print to files: with a full pipe both would wait for who reads it.
    """
    (command.cwd / "together.py").write_text(TOGETHER)
    listener = rendezvous.listen(rendezvous.LOOPBACK)
    port = str(listener.getsockname()[1])
    store = rendezvous.serve(listener)
    group = {"MASTER_ADDR": rendezvous.LOOPBACK, "MASTER_PORT": port, "WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    outs, errs = [[command.cwd / f"{kind}-{rank}" for rank in (0, 1)] for kind in ("out", "err")]

    def steps(rank: int) -> int:
        return outs[rank].read_text().count("\n")

    ranks = [
        subprocess.Popen(
            [sys.executable, "together.py"],
            cwd=command.cwd,
            env={**command.env, **group, "RANK": str(rank)},
            stdout=outs[rank].open("w"),
            stderr=errs[rank].open("w"),
            text=True,
            start_new_session=True,
        )
        for rank in (0, 1)
    ]
    zero, one = ranks

    def at_step(number: int) -> None:
        wait_for(lambda: steps(1) >= number or one.poll() is not None, f"step {number}")

    try:
        at_step(1)
        one.terminate()
        at_step(steps(1) + 500)  # it does not exit
        zero.terminate()
        for rank in ranks:
            rank.wait(300)
    finally:
        for rank in ranks:
            end_group(rank)
    del store
    last = steps(0)
    err, said = (path.read_text() for path in errs)
    assert [zero.returncode, one.returncode] == [SAVED_AND_STOPPED] * 2, err + said
    assert f"heliostat: step {last} is saved, and the script exits, as requested" in err
    assert (command.cwd / f"runs/together/checkpoints/step-{last:08d}/manifest.json").exists()
    assert last - 1 <= steps(1) <= last, "no step without the other"
    assert said == ""
