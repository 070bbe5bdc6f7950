"""Scripts for torchrun on Ray workers: real scripts, real processes, real kills."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from heliostat.environment import NODES
from tests.conftest import ROOT, Command, Head, end_group, gone, processes_of, wait_for
from tests.workloads.test_ways_in import submit

EXAMPLES = ROOT / "workloads/examples"
TORCHRUN = Path(sys.executable).parent / "torchrun"


def torchrun(command: Command, *args: str | Path) -> list[str]:
    """What the script prints under the real torchrun with two processes, sorted, for the order of ranks is chance."""
    line = [str(TORCHRUN), "--standalone", "--nproc-per-node=2", *map(str, args)]
    env = {**command.env, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=command.cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines())


def without_rank(out: str) -> list[str]:
    return sorted(re.sub(r"^\[rank \d\] ", "", line) for line in out.splitlines())


def errors(err: str) -> list[str]:
    """The lines but that which a slow machine has."""
    return [line for line in err.splitlines() if not re.fullmatch(r"heliostat: waits for \d workers to start", line)]


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


def test_an_example_prints_what_it_prints_under_torchrun(command: Command) -> None:
    """With a DistributedSampler, and processes of a DataLoader."""
    args = [str(EXAMPLES / "digits.py"), "--epochs", "2"]
    done = command("torchrun", "--workers", "2", *args)
    assert done.code == 0, done.err
    assert without_rank(done.out) == torchrun(command, *args)
    assert "accuracy 0." in done.out
    gone(command.env)


def test_a_script_with_its_own_arguments_and_snapshot_goes_on_from_it(on_ray: Command) -> None:
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
}))
print("a line of errors", file=sys.stderr)
if os.environ["RANK"] == "1":
    import torch, torch.distributed as dist
    from torch.distributed import TCPStore
if os.environ["WORLD_SIZE"] == "2":
    import torch.distributed as dist
    dist.init_process_group("gloo")
    dist.barrier()
    dist.destroy_process_group()
"""


def test_a_script_finds_what_python_and_torchrun_give_it(command: Command, tmp_path: Path) -> None:
    """Its place, its arguments untouched, its modules not hidden by ours, and the variables."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/datasets.py").write_text("THEIRS = True")
    (command.cwd / "folder").mkdir()
    env = {**command.env, "PYTHONPATH": f"{ROOT}:{tmp_path / 'site'}", "MINE": "kept"}
    command = Command(command.cwd, env)
    script(command, "folder/seen.py", SEEN)
    args = ["--workers", "7", "-x", "--help", "--", "a b", "--on=x"]
    done = command("torchrun", "--workers", "2", "--gpu", "0", "--max-restarts", "2", "folder/seen.py", *args)
    assert done.code == 0, done.err
    seen = {line[:8]: json.loads(line[9:]) for line in done.out.splitlines()}
    assert sorted(seen) == ["[rank 0]", "[rank 1]"]
    assert sorted(errors(done.err)) == ["[rank 0] a line of errors", "[rank 1] a line of errors"]
    for rank in ("0", "1"):
        about = seen[f"[rank {rank}]"]
        assert about["env"] == {
            "RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "NODE_RANK": "0",
            "GROUP_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1", "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_MAX_RESTARTS": "2", "CUDA_VISIBLE_DEVICES": "", "MINE": "kept",
        }  # fmt: skip
        assert about["argv"] == ["folder/seen.py", *args]
        assert about["name"] == "__main__"
        assert about["path"] == str(command.cwd / "folder")
        assert about["cwd"] == str(command.cwd)
        assert Path(about["main"]) == command.cwd / "folder/seen.py"
        assert about["theirs"] is True
        assert about["stdin"] == ""
    assert seen["[rank 0]"]["master"] == seen["[rank 1]"]["master"]

    script(command, "module.py", SEEN)
    alone = command("torchrun", "-m", "module", "--flag")
    assert alone.code == 0, alone.err
    about = json.loads(alone.out)
    assert about["argv"] == [str(command.cwd / "module.py"), "--flag"]
    assert about["name"] == "__main__"
    assert about["path"] == str(command.cwd)
    gone(command.env)


FAILS = """
import sys, time
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
print("ready", flush=True)
dist.barrier()
if rank == 1:
    if sys.argv[1] == "raise":
        raise RuntimeError("this rank is broken")
    sys.exit(int(sys.argv[1]))
if sys.argv[2] == "reduce":
    dist.all_reduce(torch.ones(1))
time.sleep(1000)
"""


def test_the_rank_that_fails_first_is_the_one_that_is_told(on_ray: Command, shared_ray: Head) -> None:
    """The other one, which loses its connection in the midst of a collective, has a traceback as well."""
    command = on_ray
    script(command, "fails.py", FAILS)
    done = command("torchrun", "--workers", "2", "fails.py", "raise", "reduce")
    assert done.code == 1
    assert done.err.count("Traceback") == 1, done.err
    assert "[rank 1] RuntimeError: this rank is broken\n" in done.err
    assert "[rank 0] " not in done.err
    assert done.err.endswith("heliostat: rank 1 of fails.py ended with exit code 1\n")
    wait_for(lambda: not processes_of(shared_ray.env, "fails.py"), "the other rank's end")


def test_the_exit_code_is_the_scripts_and_the_others_are_not_waited_for(on_ray: Command, shared_ray: Head) -> None:
    command = on_ray
    script(command, "fails.py", FAILS)
    done = command("torchrun", "--workers", "2", "fails.py", "3", "sleep", timeout=200)
    assert done.code == 3, done.err
    assert errors(done.err) == ["heliostat: rank 1 of fails.py ended with exit code 3"]
    assert sorted(done.out.splitlines()) == ["[rank 0] ready", "[rank 1] ready"]
    wait_for(lambda: not processes_of(shared_ray.env, "fails.py"), "the other rank's end")


def test_a_killed_rank_goes_on_from_its_checkpoint_with_the_same_losses(command: Command) -> None:
    name = "digits_resumes.py"
    args = [str(EXAMPLES / name), "--epochs", "12"]
    process = command.start("torchrun", "--workers", "2", "--max-restarts", "1", *args)
    try:
        saved = command.cwd / "runs/digits_resumes/checkpoints/step-00000004/manifest.json"
        wait_for(lambda: saved.exists() or process.poll() is not None, "the fourth checkpoint", 300)
        ranks_of(command, name)["1"].kill()
        out, err = process.communicate(timeout=300)
    finally:
        end_group(process)
    assert process.returncode == 0, err
    assert f"heliostat: rank 1 of {args[0]} was ended by SIGKILL (is the memory full?); restart 1 of 1" in err
    assert len(re.findall(r"\[rank 0\] heliostat: goes on from step \d+, ", err)) == 1
    shutil.rmtree(command.cwd / "runs")
    # An epoch that was printed, but not saved, is printed again, and is the same.
    assert sorted(set(without_rank(out))) == torchrun(command, *args)
    assert len(without_rank(out)) <= 12 + 1 + 1
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
    """Also a script that catches nothing ends; after that, plain Python goes on from the same checkpoint."""
    script(command, "steps.py", STEPS)
    process = command.start("torchrun", "--workers", "2", "steps.py")
    try:
        assert process.stdout
        first = [process.stdout.readline() for _ in range(20)]
        for rank in (0, 1):
            mine = [line for line in first if line.startswith(f"[rank {rank}]")]
            assert mine == [f"[rank {rank}] step {number + 1}\n" for number in range(len(mine))]
        process.send_signal(signal.SIGINT)
        process.wait(timeout=200)
        # Not communicate(), which forgets what readline() has read ahead.
        assert process.stderr
        rest, err = process.stdout.read(), process.stderr.read()
    finally:
        end_group(process)
    assert process.returncode == 130, err
    printed = [int(number) for number in re.findall(r"^\[rank 0\] step (\d+)$", "".join(first) + rest, re.MULTILINE)]
    last = max(printed)
    assert printed == list(range(1, last + 1)), "each line once, in order"
    assert f"heliostat: step {last} is saved, and the script ends, as it was asked to" in err
    assert "the same command goes on from the last" in err
    gone(command.env)
    with command.python("steps.py") as again:
        assert again.stderr
        assert again.stdout
        assert f"goes on from step {last}, " in again.stderr.readline()
        assert again.stdout.readline() == f"step {last + 1}\n"
        again.terminate()
        again.communicate(timeout=60)
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


def test_nobody_reads_on(command: Command) -> None:
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
    assert err.endswith("heliostat: stopped, as nobody reads its output any more\n")
    assert "Traceback" not in err
    gone(command.env)


def test_a_submitted_job_shows_the_ranks_and_ends_as_the_script_does(ray_head: Head) -> None:
    done = submit(ray_head, "python", "-m", "heliostat", "torchrun", "--workers", "2", "workloads/examples/ddp.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[rank 1] rank 1 of 2 is here\n" in done.stdout
    assert "accuracy on the training data 0.9" in done.stdout
    assert "cost" not in done.stdout + done.stderr, "nobody knows prices there"
    bad = submit(ray_head, "python", "-m", "heliostat", "torchrun", "workloads/examples/digits.py", "--epochs", "few")
    assert "exit code 2" in bad.stdout + bad.stderr
    assert "argument --epochs: invalid int value: 'few'" in bad.stdout


def test_a_script_where_prices_are_known_says_what_its_workers_cost(ray_head: Head) -> None:
    """Two workers with a CPU each, on a node with two that costs a dollar a second."""
    nodes = json.dumps([{"CPU": 2, "GPU": 0, "price": 3600.0}])
    began = time.time()
    line = "python -m heliostat torchrun --workers 2 workloads/examples/ddp.py"
    done = submit(ray_head, "env", f"{NODES}={nodes}", *line.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert (said := re.search(r"^heliostat: cost (\S+)$", done.stdout, re.MULTILINE)), done.stdout
    assert 0 < float(said[1]) < time.time() - began


PROFILE = """
platform: local
head: {cpu: 1, memory: 2Gi, price_per_hour: 0}
groups: [{name: gpu, gpu: 2, cpu: 2, memory: 2Gi, max: 1, idle_seconds: 60, price_per_hour: 0}]
storage: {uri: storage}
idle_shutdown_seconds: null
"""
PLACED = """
import json, os, sys
from heliostat.torchrun import save
devices = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
print("place", os.environ["LOCAL_RANK"], devices[int(os.environ["LOCAL_RANK"])], len(devices), flush=True)
save(3)
sys.exit(5 if os.environ["RANK"] == "0" else 0)
"""


def test_on_a_profile_each_rank_finds_its_own_gpu_and_the_exit_code_comes_back(command: Command) -> None:
    (command.cwd / "pair.yaml").write_text(PROFILE)
    script(command, "placed.py", PLACED)
    try:
        up = command("up", "pair.yaml")
        assert up.code == 0, up.err
        done = command("torchrun", "--on", "pair.yaml", "--workers", "2", "--gpu", "1", "placed.py", "-v")
        assert done.code == 5, done.err
        assert {line for line in done.out.splitlines() if "] place " in line} == {
            "[rank 0] place 0 0 2",
            "[rank 1] place 1 1 2",
        }
        assert "rank 0 of placed.py ended with exit code 5" in done.out + done.err
        (made,) = command.cwd.rglob("placed/checkpoints/step-00000003/manifest.json")
        assert made.is_relative_to(command.cwd / "storage"), "a relative storage is on the cluster's"
        never = command("torchrun", "--on", "pair.yaml", "--workers", "3", "--gpu", "1", "placed.py")
        assert never.code == 2
        assert "workers is 3, each with 1 CPU, but there are 2 CPUs" in never.err
        assert "set workers to 2" in never.err
        (command.cwd / "below").mkdir()
        below = Command(command.cwd / "below", command.env)
        outside = below("torchrun", "--on", "../pair.yaml", "../placed.py")
        assert outside.code == 2
        assert "outside of the working directory" in outside.err
    finally:
        down = command("down", "pair.yaml", "--yes")
    assert down.code == 0, down.err
    gone(command.env)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--workers 0 good.py", ["workers is 0", "at least 1"]),
        ("--workers 900 good.py", ["workers is 900", "set workers to"]),
        ("--cpu 900 good.py", ["each with 900 CPU", "give each worker less"]),
        ("--gpu many good.py", ["resources.gpu is 'many'", "0, 1, or auto"]),
        ("--max-restarts -1 good.py", ["max_restarts is -1", "at least 0"]),
        ("goood.py", ["goood.py does not exist", "did you mean good.py?"]),
        ("-m goood", ["no module goood"]),
        ("--nproc_per_node=2 good.py", ["--nproc-per-node is 2", "--workers 2"]),
        ("--name a/b good.py", ["'a/b' cannot be a run's name"]),
        ("--ephemeral good.py", ["--ephemeral needs a cluster", "--on PROFILE"]),
        ("--on nowhere good.py", ["no profile nowhere"]),
    ],
)
def test_bad_input_is_exit_2_with_the_fix_before_anything_starts(command: Command, line: str, told: list[str]) -> None:
    script(command, "good.py", "print('ran')")
    done = command("torchrun", *shlex.split(line))
    assert done.code == 2
    assert all(text in done.err for text in told), done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert [path.name for path in command.cwd.iterdir()] == ["good.py"]


def test_the_page_on_migrating_works_as_it_stands(command: Command) -> None:
    """Its commands, in the copy of a repository, one after the other; in the third step a rank is killed."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (command.cwd / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, command.cwd / name)
    command = Command(command.cwd, {**command.env, "PYTHONPATH": str(command.cwd)})
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs/migrating.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for language, block in blocks if not language for line in block.splitlines()]
    assert [line.split()[:2] for line in lines] == [
        ["heliostat", "torchrun"], ["heliostat", "up"], ["heliostat", "torchrun"], ["heliostat", "down"],
        ["heliostat", "torchrun"], ["heliostat", "train"],
    ]  # fmt: skip
    *scripts, resumes, train = [shlex.split(line)[1:] for line in lines]
    for line in scripts:
        done = command(*line)
        assert done.code == 0, done.err
        assert ("[rank 0] accuracy 0.9" in done.out) == (line[0] == "torchrun")
    process = command.start(*resumes)
    try:
        wait_for(lambda: len(list(command.cwd.glob("runs/digits_resumes/checkpoints/*/manifest.json"))) > 1, "checkpoints", 300)
        ranks_of(command, "digits_resumes.py")["0"].kill()
        out, err = process.communicate(timeout=300)
    finally:
        end_group(process)
    assert process.returncode == 0, err
    assert "restart 1 of 3" in err
    assert "[rank 0] accuracy 0.9" in out
    done = command(*train)
    assert done.code == 0, done.err
    assert "digits_task finished at step" in done.out
    gone(command.env)


def test_the_page_shows_the_three_lines_as_they_are() -> None:
    before, after = ((EXAMPLES / name).read_text().splitlines()[4:] for name in ("digits.py", "digits_resumes.py"))
    new = [line.strip() for line in after if line not in before and line]
    assert len(new) == 3
    page = (ROOT / "docs/migrating.md").read_text()
    assert all(line.removesuffix("  # new") in page for line in new)
