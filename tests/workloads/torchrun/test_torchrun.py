"""``heliostat torchrun`` on this machine: real scripts, real processes, real kills."""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from heliostat.cli import main
from heliostat.cluster import in_process
from heliostat.commands import torchrun as torchrun_command
from tests.conftest import ROOT, Command, Head, end_group, gone, processes_of, wait_for
from tests.workloads.torchrun.scripts import EXAMPLES, errors, ranks_of, script, torchrun, without_rank


def test_an_example_prints_what_it_prints_under_torchrun(on_ray: Command) -> None:
    """With a DistributedSampler, and processes of a DataLoader."""
    command = on_ray
    args = [str(EXAMPLES / "digits.py"), "--epochs", "2"]
    done = command("torchrun", "--workers", "2", *args)
    assert done.code == 0, done.err
    assert without_rank(done.out) == torchrun(command, *args)
    assert "accuracy 0." in done.out


def test_a_script_with_its_own_arguments_and_snapshot_resumes_from_it(on_ray: Command) -> None:
    command = on_ray
    line = ["torchrun", "--workers", "2", str(EXAMPLES / "snapshots.py")]
    assert command(*line, "2", "1", "--batch_size", "64").code == 0
    done = command(*line, "4", "1", "--batch_size", "64")
    assert done.code == 0, done.err
    assert "[rank 0] Resuming from the snapshot at epoch 2" in done.out
    assert re.findall(r"^\[rank 0\] \[0\] epoch (\d)", done.out, re.MULTILINE) == ["2", "3"]
    assert (command.cwd / "snapshot.pt").exists()
    assert not (command.cwd / "runs").exists(), "a script that saves by itself gets no run folder"


SEEN = """
import json, os, sys
import datasets
from heliostat.torchrun import resume
assert resume() == 0
keys = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "GROUP_WORLD_SIZE",
        "OMP_NUM_THREADS", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "CUDA_VISIBLE_DEVICES", "MINE"]
print(json.dumps({
    "env": {key: os.environ.get(key) for key in keys}, "argv": sys.argv, "name": __name__, "path": sys.path[0],
    "cwd": os.getcwd(), "main": sys.modules["__main__"].__file__, "theirs": datasets.THEIRS, "stdin": sys.stdin.read(),
    "master": [os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"], os.environ["TORCHELASTIC_RUN_ID"]],
    "scheduling": os.sched_getscheduler(0), "nice": os.nice(0), "oom": int(open("/proc/self/oom_score_adj").read()),
}))
print("a line of errors", file=sys.stderr)
if os.environ["RANK"] == "1":
    import torch, torch.distributed as dist
    from torch.distributed import TCPStore
if os.environ["WORLD_SIZE"] != "1":
    import torch.distributed as dist
    dist.init_process_group("gloo")
    dist.barrier()
    dist.destroy_process_group()
"""


def test_a_script_finds_what_python_and_torchrun_give_it(command: Command, tmp_path: Path) -> None:
    """Its working directory, arguments, modules not shadowed by ours, variables, and its share of the machine."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/datasets.py").write_text("THEIRS = True")
    (command.cwd / "folder").mkdir()
    env = {**command.env, "PYTHONPATH": f"{ROOT}:{tmp_path / 'site'}", "MINE": "kept"}
    command = Command(command.cwd, env)
    name = "folder/my séen.py"
    script(command, name, SEEN)
    args = ["--workers", "7", "-x", "--help", "--", "a b", "--on=x"]
    done = command("torchrun", "--workers", "3", "--gpu", "0", "--max-restarts", "2", name, *args)
    assert done.code == 0, done.err
    seen = {line[:8]: json.loads(line[9:]) for line in done.out.splitlines()}
    assert sorted(seen) == ["[rank 0]", "[rank 1]", "[rank 2]"]
    assert sorted(errors(done.err)) == [f"[rank {rank}] a line of errors" for rank in range(3)]
    for rank in ("0", "1", "2"):
        about = seen[f"[rank {rank}]"]
        assert about["env"] == {
            "RANK": rank, "WORLD_SIZE": "3", "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "3", "GROUP_RANK": "0", "NODE_RANK": "0",
            "GROUP_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1", "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_MAX_RESTARTS": "2", "CUDA_VISIBLE_DEVICES": "", "MINE": "kept",
        }  # fmt: skip
        assert about["argv"] == [name, *args]
        assert about["name"] == "__main__"
        assert about["path"] == str(command.cwd / "folder")
        assert about["cwd"] == str(command.cwd)
        assert Path(about["main"]) == command.cwd / name
        assert about["theirs"] is True
        assert (about["scheduling"], about["nice"]) == (os.SCHED_OTHER, os.nice(0)), "it yields to no other program"
        assert about["oom"] < 100, "it is not the first to go when another program takes the memory"
    assert seen["[rank 0]"]["master"] == seen["[rank 1]"]["master"]

    script(command, "module.py", SEEN)
    piped = [sys.executable, "-m", "heliostat", "torchrun", "-m", "module", "--flag"]
    alone = subprocess.run(piped, input="piped", cwd=command.cwd, env=dict(command.env), capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    about = json.loads(alone.stdout)
    assert about["stdin"] == "piped"
    assert about["argv"] == [str(command.cwd / "module.py"), "--flag"]
    assert about["name"] == "__main__"
    assert about["path"] == str(command.cwd)
    gone(command.env)


FAILS = """
import os, signal, sys, time
import torch
import torch.distributed as dist
asked = []
if sys.argv[2] == "reduce":
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
dist.init_process_group("gloo")
rank = dist.get_rank()
print("ready", flush=True)
dist.barrier()
if rank == 1:
    if sys.argv[1] == "raise":
        raise RuntimeError("this rank is broken")
    sys.exit(int(sys.argv[1]))
if sys.argv[2] == "reduce":
    try:
        dist.all_reduce(torch.ones(1))
    except RuntimeError:
        while not (asked and os.path.exists("shown")):  # until the exit and the traceback of the other one have arrived
            time.sleep(0.01)
        raise
time.sleep(1000)
"""


def test_the_rank_that_failed_first_is_the_one_that_is_reported(on_ray: Command, shared_ray: Head) -> None:
    """The other one, which loses its connection during a collective, has a traceback as well."""
    command = on_ray
    script(command, "fails.py", FAILS)
    broken, lines = "[rank 1] RuntimeError: this rank is broken\n", list[str]()
    with command.start("torchrun", "--workers", "2", "fails.py", "raise", "reduce") as process:
        try:
            assert process.stderr
            for line in process.stderr:
                lines.append(line)
                if line == broken:
                    (command.cwd / "shown").touch()
        finally:
            end_group(process)
    assert process.returncode == 1
    cause, _, rest = "".join(lines).partition(broken)
    assert "[rank 0] " not in cause, "the first cause comes first"
    assert rest.count("[rank 0] Traceback") == 1, "and nothing is left out"
    assert rest.endswith("heliostat: rank 1 of fails.py exited with code 1\n")
    wait_for(lambda: not processes_of(shared_ray.env, "fails.py"), "the other rank's end")


def test_the_exit_code_is_the_scripts_and_the_others_are_not_waited_for(on_ray: Command, shared_ray: Head) -> None:
    command = on_ray
    script(command, "fails.py", FAILS)
    done = command("torchrun", "--workers", "2", "fails.py", "3", "sleep", timeout=300)
    assert done.code == 3, done.err
    assert errors(done.err) == ["heliostat: rank 1 of fails.py exited with code 3"]
    assert sorted(done.out.splitlines()) == ["[rank 0] ready", "[rank 1] ready"]
    wait_for(lambda: not processes_of(shared_ray.env, "fails.py"), "the other rank's end")


KILLED = """
import os, pathlib, runpy, signal
from heliostat import torchrun
save, killed = torchrun.save, pathlib.Path("killed")
def save_and_die(step, **state):
    save(step, **state)
    if step == 4 and os.environ["RANK"] == "1" and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
torchrun.save = save_and_die
runpy.run_path({example!r}, run_name="__main__")
"""


def test_a_killed_rank_resumes_from_its_checkpoint_with_the_same_losses(command: Command) -> None:
    """It is killed after it has saved the fourth of 8 epochs, whichever of the two is faster."""
    example = str(EXAMPLES / "digits_resumes.py")
    name = script(command, "digits_resumes.py", KILLED.format(example=example))
    done = command("torchrun", "--workers", "2", "--max-restarts", "1", name, "--epochs", "8")
    assert done.code == 0, done.err
    assert f"heliostat: rank 1 of {name} was killed by SIGKILL (out of memory?); restart 1 of 1" in done.err
    assert len(re.findall(r"\[rank 0\] heliostat: resumes from step \d+, ", done.err)) == 1
    shutil.rmtree(command.cwd / "runs")
    # An epoch that was printed, but not saved, is printed again, and is the same.
    assert sorted(set(without_rank(done.out))) == torchrun(command, example, "--epochs", "8")
    assert len(without_rank(done.out)) <= 8 + 1 + 1
    gone(command.env)


STEPS = """
import time
from heliostat.torchrun import resume, save
total = {"sum": 0}
for step in range(resume(total=total), 100000):
    time.sleep(0.05)
    total["sum"] += step
    print("step", step + 1, flush=True)
    save(step + 1, every=1000, total=total)
"""


def test_lines_arrive_while_it_runs_and_ctrl_c_ends_it_with_a_checkpoint(command: Command) -> None:
    """Also of a script that catches nothing; then plain Python resumes from the same checkpoint."""
    script(command, "steps.py", STEPS)
    process = command.start("torchrun", "--workers", "2", "steps.py")
    try:
        assert process.stdout
        first = [process.stdout.readline() for _ in range(20)]
        for rank in (0, 1):
            mine = [line for line in first if line.startswith(f"[rank {rank}]")]
            assert mine == [f"[rank {rank}] step {number + 1}\n" for number in range(len(mine))]
        process.send_signal(signal.SIGINT)
        process.wait(timeout=300)
        # Not communicate(), which forgets what readline() has read ahead.
        assert process.stderr
        rest, err = process.stdout.read(), process.stderr.read()
    finally:
        end_group(process)
    assert process.returncode == 130, err
    printed = [int(number) for number in re.findall(r"^\[rank 0\] step (\d+)$", "".join(first) + rest, re.MULTILINE)]
    last = max(printed)
    assert printed == list(range(1, last + 1)), "each line once, in order"
    assert f"heliostat: step {last} is saved, and the script exits, as requested" in err
    assert "the same command resumes from the last" in err
    gone(command.env)
    with command.python("steps.py") as again:
        assert again.stderr
        assert again.stdout
        assert f"resumes from step {last}, " in again.stderr.readline()
        assert again.stdout.readline() == f"step {last + 1}\n"
        again.terminate()
        again.communicate(timeout=300)
    assert again.returncode == 143


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(1000)
"""


def test_a_killed_command_takes_its_scripts_with_it(command: Command) -> None:
    script(command, "stubborn.py", STUBBORN)
    process = command.start("torchrun", "stubborn.py")
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        assert list(ranks_of(command, "stubborn.py")) == ["0"]
        process.kill()
        wait_for(lambda: not ranks_of(command, "stubborn.py"), "the script to follow the command")
    finally:
        end_group(process)
        process.communicate()
    gone(command.env)


def test_a_closed_standard_output_stops_the_command(command: Command) -> None:
    """As with ``| head -1``."""
    script(command, "steps.py", STEPS)
    with command.start("torchrun", "steps.py") as process:
        try:
            assert process.stdout
            assert process.stderr
            process.stdout.readline()
            process.stdout.close()
            err = process.stderr.read()
        finally:
            end_group(process)
    assert err.endswith("heliostat: stopped, because the reader of its output has closed the pipe\n")
    assert "Traceback" not in err
    gone(command.env)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--workers 0 good.py", ["workers is 0", "at least 1"]),
        ("--workers 2 --gpu 1 good.py", ["workers is 2, each with 1 GPU", "or use a larger machine"]),
        ("--cpu 900 good.py", ["each with 900 CPU", "give each worker less"]),
        ("--gpu many good.py", ["resources.gpu is 'many'", "0, 1, or auto"]),
        ("--max-restarts -1 good.py", ["max_restarts is -1", "at least 0"]),
        ("goood.py", ["goood.py does not exist", "did you mean good.py?"]),
        ("-m goood", ["module goood does not exist"]),
        ("--nproc_per_node=all good.py", ["--nproc-per-node is all", "--workers N"]),
        ("--nnodes=1:4 good.py", ["--nnodes is 1:4", "--workers N"]),
        ("--nnodes=2 --nproc-per-node=4 good.py", ["--nnodes is 2", "--on PROFILE --workers 8"]),
        ("--workers 3 --nproc-per-node=4 good.py", ["--workers is 3", "make 4"]),
        ("-t 3 --rdzv_conf timeout=60 --no-python good.py", ["--tee", "2>&1 | tee FILE", "--rdzv-conf", "--no-python"]),
        ("--fast good.py", ["usage: heliostat torchrun", "unrecognized arguments: --fast"]),
        ("--cpu -1 good.py", ["resources.cpu is -1", "such as 1 or 0.5"]),
        ("good.sh", ["good.sh is a shell script", "bash good.sh"]),
        ("--name a/b good.py", ["'a/b' cannot be a run's name"]),
        ("--ephemeral good.py", ["--ephemeral needs a cluster", "--on PROFILE"]),
        ("--on nowhere good.py", ["no profile nowhere"]),
    ],
)
def test_bad_input_is_exit_2_with_the_fix_before_anything_starts(command: Command, line: str, message: list[str]) -> None:
    for name in ("good.py", "good.sh"):
        script(command, name, "print('ran')")
    done = command("torchrun", *shlex.split(line))
    assert done.code == 2
    assert all(text in done.err for text in message), done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert sorted(path.name for path in command.cwd.iterdir()) == ["good.py", "good.sh"]


@pytest.mark.parametrize(
    ("line", "workers"),
    [
        ("--standalone --nproc_per_node=2", "2, each with {2} CPU"),
        ("--nnodes=1 --nproc-per-node=4 --max_restarts=3 --monitor_interval 5", "4, each with {4} CPU"),
        ("--nproc-per-node cpu", "{cores}, each with 1 CPU"),
        ("--workers 3 --cpu 0.1", "3, each with 0.1 CPU"),
        ("--workers 4 --cpu 0", "4, each with 0 CPU"),
    ],
)
def test_a_line_for_torchrun_works_also_with_more_ranks_than_cores(
    line: str, workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And with a blank or other letters in the name of the script."""
    (tmp_path / "trén now.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cores = int(in_process.machine()[0]["CPU"])
    share = {f"{{{number}}}": f"{min(1, int(cores / number * 10000) / 10000):g}" for number in (2, 4)}
    for name, value in {**share, "{cores}": str(cores)}.items():
        workers = workers.replace(name, value)
    assert main(["torchrun", "--gpu", "0", "--dry-run", *line.split(), "trén now.py"]) == 0
    plan = capsys.readouterr().out
    assert f"# workers: {workers} and 0 GPU\n" in plan
    assert "# run folder: runs/trén-now\n" in plan


def test_every_option_of_torchrun_is_known() -> None:
    """A contract with torch: an option that it adds must be accepted here, or said what takes its place."""
    from torch.distributed.run import get_args_parser

    parser = argparse.ArgumentParser()
    torchrun_command.configure(parser)
    theirs = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert theirs <= parser._option_string_actions.keys()
