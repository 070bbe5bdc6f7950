"""``heliostat torchrun`` on a cluster: a submitted job, a profile, and the page on migrating, command by command."""

import json
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from heliostat.cluster.jobs.contents import contents
from heliostat.commands.job import not_sent
from heliostat.environment import NODES
from heliostat.folder import Folder
from heliostat.workloads.torchrun.kept import files_in, is_copy, keep, new_files
from tests.conftest import ROOT, Command, Head, end_group, gone, wait_for
from tests.workloads.ray_train.test_jobs_and_client import submit
from tests.workloads.torchrun.scripts import EXAMPLES, ranks_of, script


def test_a_submitted_job_shows_the_ranks_and_ends_as_the_script_does(ray_head: Head) -> None:
    done = submit(ray_head, "python", "-m", "heliostat", "torchrun", "--workers", "2", "workloads/examples/ddp.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[rank 1] rank 1 of 2 is here\n" in done.stdout
    assert "accuracy on the training data 0.9" in done.stdout
    assert "cost" not in done.stdout + done.stderr, "no prices are known"
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
import torch.distributed as dist
from heliostat.torchrun import save
devices = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
print("place", os.environ["LOCAL_RANK"], devices[int(os.environ["LOCAL_RANK"])], len(devices), flush=True)
dist.init_process_group("gloo")
dist.barrier()  # a rank that fails ends the other one, which may not have printed yet
dist.destroy_process_group()
save(3)
if os.environ["RANK"] == "0":
    os.makedirs("out")
    print(open("out/model.pt", "w").write("weights"), "bytes", os.environ.get("SENT"))
    try:
        open(os.path.join("data", "train.bin"))
    except FileNotFoundError as error:
        print(error)
sys.exit(5 if os.environ["RANK"] == "0" else 0)
"""


def test_on_a_profile_each_rank_finds_its_own_gpu_and_the_exit_code_comes_back(command: Command) -> None:
    """What the script writes to its copy of the working directory is kept; what it misses, and is here, is named."""
    (command.cwd / "pair.yaml").write_text(PROFILE)
    script(command, "placed.py", PLACED)
    (command.cwd / "data").mkdir()
    (command.cwd / "data/train.bin").write_bytes(b"x")
    (command.cwd / ".gitignore").write_text("*.bin\n")
    command = Command(command.cwd, {**command.env, "SENT": "no", "WANDB_API_KEY": "secret"})
    try:
        up = command("up", "pair.yaml")
        assert up.code == 0, up.err
        done = command("torchrun", "--on", "pair.yaml", "--workers", "2", "--gpu", "1", "placed.py", "-v")
        assert done.code == 5, done.err
        assert {line for line in done.out.splitlines() if "] place " in line} == {
            "[rank 0] place 0 0 2",
            "[rank 1] place 1 1 2",
        }
        assert "rank 0 of placed.py exited with code 5" in done.out + done.err
        assert "data/train.bin is here, but was not sent, because" in done.err
        assert "because --env does not name it: SENT, WANDB_API_KEY" in done.err
        assert "secret" not in done.err + done.out
        (kept,) = command.cwd.rglob("model.pt")
        assert kept == command.cwd / "storage/runs/placed/files/out/model.pt"
        assert f"keeps 1 file (0.0 MB) of the working directory in {kept.parent.parent}: out/model.pt\n" in done.out
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


def test_files_and_variables_that_a_script_names_but_does_not_get_are_found(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text('np.memmap("data/train.bin"); os.environ["TOKEN"], os.getenv("HOME"), "cache"')
    (tmp_path / ".gitignore").write_text("*.bin\n/cache/\n/outputs\n/sent.csv")
    (tmp_path / ".rayignore").write_text("!sent.csv")
    for folder in ("data", "cache", "outputs", "seen"):
        (tmp_path / folder).mkdir()
    for file in ("data/train.bin", "cache/x", "outputs/y", "sent.csv", "seen/z"):
        (tmp_path / file).write_text("")
    files = contents(tmp_path, isolated=True)
    text = not_sent.source_text(files)
    assert not_sent.ignored(text, files) == ["cache/", "data/train.bin"]
    shell = {"TOKEN": "t", "HOME": "h", "OMP_NUM_THREADS": "3", "MY_API_KEY": "k", "HF_HOME": "x", "OTHER": "o"}
    assert not_sent.variables(text, shell, sent=["HF_HOME"]) == ["MY_API_KEY", "OMP_NUM_THREADS", "TOKEN"]
    copy = "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_1/working-dir"
    for line in (
        "FileNotFoundError: [Errno 2] No such file or directory: 'data/train.bin'",
        f"RuntimeError: cannot open {copy}/data/train.bin: it does not exist",
        "[rank 3] data/train.bin: not found",
    ):
        assert not_sent.missed(f"a line\n{line}\n", files) == ["data/train.bin"]
    for line in (
        "No such file: 'data/other.bin'",
        "No such file: 'seen/z'",
        "opened 'data/train.bin'",
        "no such file: '/etc/hosts'",
    ):
        assert not_sent.missed(line, files) == []


def test_new_and_changed_files_of_a_working_directory_are_kept(tmp_path: Path) -> None:
    copy, run = tmp_path / "copy", Folder.at(tmp_path / "work/run")
    for folder in ("old", "__pycache__"):
        (copy / folder).mkdir(parents=True)
    for name in ("same.py", "old/changed.txt"):
        (copy / name).write_text("before")
    before = files_in(copy)
    (copy / "old/changed.txt").write_text("after that")
    for name in ("new.pt", "__pycache__/x.pyc"):
        (copy / name).write_text("new")
    (copy / "nowhere").symlink_to("nothing")
    sizes = new_files(copy, before)
    assert sizes == {"new.pt": 3, "old/changed.txt": 10}
    keep(copy, sizes, run, "files")
    assert files_in(tmp_path / "work/run/files").keys() == sizes.keys()
    assert new_files(copy, files_in(copy)) == {}
    (tmp_path / "work/train.py").write_text("")
    assert list(contents(tmp_path / "work").sizes) == ["train.py"], "they are not sent with the next job"
    assert is_copy(Path("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_1/working-dir"))
    assert not is_copy(copy)


@pytest.mark.accept  # two minutes, and each of its commands is tested by itself
def test_the_page_on_migrating_works_as_it_stands(command: Command) -> None:
    """Its commands, in the copy of a repository, one after the other; in the third step a rank is killed."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.splitlines():
        source, target = ROOT / name, command.cwd / name
        if (source.is_file() or source.is_symlink()) and not name.startswith("tests/"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target, follow_symlinks=False)
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
        wait_for(lambda: len(list(command.cwd.glob("runs/digits_resumes/checkpoints/*/manifest.json"))) > 1, "checkpoints")
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
