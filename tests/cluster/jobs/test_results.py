"""What a job leaves on the storage of its cluster: its output, its run; and how both come to the user's machine."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.errors import Unreachable
from heliostat.cluster.in_pod import files
from heliostat.cluster.jobs.contents import contents
from heliostat.cluster.jobs.follow import Work, about
from heliostat.cluster.targets.kept import kept_jobs
from heliostat.cluster.targets.storage import ByJob, InPlace, Storage
from heliostat.commands import pull_command
from heliostat.environment import IN_A_JOB, STORAGE
from tests.cluster.kube.api_server import kubeconfig, serving
from tests.cluster.kube.test_owners import PROFILE, SCHEMA
from tests.conftest import ROOT, Command

OLD = ROOT / "tests/fixtures/v0.1/storage"
LOCAL = """
name: local
platform: local
groups: [{name: gpu, gpu: 1, gpu_type: H100, max: 1}]
storage: {uri: store}
"""


def in_a_job(storage: str | Path, id: str, **more: str) -> dict[str, str]:
    """The variables of a job's command."""
    metadata = {"job_submission_id": id, **about("local", **more)}
    return {STORAGE: str(storage), IN_A_JOB: json.dumps({"metadata": metadata})}


def run_job(folder: Path, command: list[str], variables: Mapping[str, str]) -> tuple[int, str]:
    """Run a job's entrypoint as Ray does: by a shell, with a file as standard output; its exit code and what it prints."""
    work = Work("any", command, contents(folder))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    with (folder / "out.log").open("w") as log:
        code = subprocess.run(work.entrypoint, shell=True, env=env, cwd=folder, stdout=log, stderr=log, check=False).returncode
    return code, (folder / "out.log").read_text()


@pytest.fixture
def here(command: Command) -> Command:
    (command.cwd / "local.yaml").write_text(LOCAL)
    return command


def test_the_output_of_a_job_that_fails_before_it_has_a_run_is_read_when_the_cluster_is_gone(here: Command) -> None:
    folder = here.cwd
    variables = in_a_job(folder / "store", "bad-1", run="bad")
    code, printed = run_job(folder, ["echo first && echo second >&2 && exit 3"], variables)
    assert (code, printed) == (3, "first\nsecond\n")
    run_job(folder, ["echo", "a later one"], in_a_job(folder / "store", "other-2"))
    (job, _) = kept_jobs(folder / "store")
    assert (job.id, job.run, job.cluster, job.exit_code) == ("bad-1", "bad", "local", 3)
    assert here("logs", "local.yaml").out == "a later one\n"
    for name in ("bad-1", "bad"):
        done = here("logs", "local.yaml", name)
        assert (done.code, done.out) == (0, "first\nsecond\n"), done.err
        assert "ended with exit code 3" in done.err
    assert here("logs", "local.yaml", "bad-1", "-f").code == 3
    unknown = here("logs", "local.yaml", "bda-1")
    assert unknown.code == 2
    assert "did you mean bad-1" in unknown.err
    pulled = here("runs", "pull", "bad", "--on", "local.yaml", "--to", "got")
    assert pulled.code == 0, pulled.err
    assert (folder / "got/bad/logs/bad-1.log").read_text() == "first\nsecond\n"


def test_a_job_whose_output_cannot_be_kept_runs_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, printed = run_job(tmp_path, ["sh", "-c", "echo works; exit 4"], in_a_job(tmp_path / "file", "job-1"))
    assert code == 4
    assert "works\n" in printed
    assert f"the output of this job is not kept in {tmp_path}/file/.jobs/job-1" in printed
    assert printed.count("not kept") == 1


def test_a_long_output_is_kept_in_pieces(tmp_path: Path) -> None:
    code = "import sys; sys.stdout.write('x' * 2_500_000)"
    assert run_job(tmp_path, [sys.executable, "-c", code], in_a_job(tmp_path / "store", "long-1"))[0] == 0
    pieces = sorted(path.stat().st_size for path in (tmp_path / "store/.jobs/long-1").glob("*.log"))
    assert pieces == [2_500_000 - 2 * (1 << 20), 1 << 20, 1 << 20]
    assert len(kept_jobs(tmp_path / "store")[0].output(tmp_path / "store")) == 2_500_000


def test_a_single_argument_is_a_line_for_the_shell_and_several_are_words(tmp_path: Path) -> None:
    assert run_job(tmp_path, ["echo one && echo two"], {}) == (0, "one\ntwo\n")
    assert run_job(tmp_path, ["echo", "one && echo two"], {}) == (0, "one && echo two\n")


def test_runs_of_a_clusters_storage_are_listed_and_brought_here(here: Command) -> None:
    shutil.copytree(OLD, here.cwd / "store/runs")
    for name in ("index.json", "code/own.py", "../sweep/trials/0000/index.json"):
        path = here.cwd / "store/runs/breast-cancer" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    rows = json.loads(here("runs", "--on", "local.yaml", "--json").out)
    assert [(row["name"], row["step"], row["run"]) for row in rows] == [
        ("breast-cancer", 26, f"{here.cwd}/store/runs/breast-cancer"),
        ("sweep", 3, f"{here.cwd}/store/runs/sweep"),
        ("counts", 0, f"{here.cwd}/store/runs/counts"),
    ]
    one = json.loads(here("runs", "show", "breast-cancer", "--on", "local.yaml", "--json").out)
    assert (one["state"], one["run"]) == ("finished", f"{here.cwd}/store/runs/breast-cancer")
    done = here("runs", "pull", "breast-cancer", "--on", "local.yaml")
    assert done.code == 0, done.err
    assert (here.cwd / "runs/breast-cancer/result.json").exists()
    assert any((here.cwd / "runs/breast-cancer/checkpoints").iterdir())
    again = here("runs", "pull", "breast-cancer", "--on", "local.yaml", "--only", "report")
    assert again.code == 0, "the same run is brought up to date"
    part = here("runs", "pull", "breast-cancer", "--on", "local.yaml", "--only", "checkpoint", "--to", "part")
    assert part.code == 0, part.err
    assert not (here.cwd / "part/breast-cancer/metrics.jsonl").exists()
    assert (here.cwd / "part/breast-cancer/index.json").exists(), "it predicts without its dataset"
    assert (here.cwd / "part/breast-cancer/code/own.py").exists()
    assert here("runs", "pull", "sweep", "--on", "local.yaml", "--only", "checkpoint", "--to", "part").code == 0
    assert {path.name for path in (here.cwd / "part/sweep/trials/0000").iterdir()} >= {"config.yaml", "index.json"}
    config = here.cwd / "runs/breast-cancer/config.yaml"
    config.write_text(config.read_text().replace("created: ", "created: 1"))
    other = here("runs", "pull", "breast-cancer", "--on", "local.yaml")
    assert other.code == 2
    assert "runs/breast-cancer exists, and is another run" in other.err
    absent = here("runs", "pull", "breast-cancre", "--on", "local.yaml")
    assert absent.code == 2
    assert "did you mean breast-cancer" in absent.err
    elsewhere = here("runs", "--on", "local.yaml", "--storage", "/elsewhere")
    assert elsewhere.code == 2


@contextmanager
def sent_by_job(store: Path | str) -> Iterator[ByJob]:
    """A storage that the job's program reads, here without a cluster."""
    command = [sys.executable, "-u", "-c", Path(files.__file__).read_text(), str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield ByJob(f"http://127.0.0.1:{process.stdout.readline().split()[-1]}")
        finally:
            process.kill()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ByJob]:
    """A storage on a claim."""
    with sent_by_job(tmp_path / "store") as storage:
        yield storage


def test_files_come_from_a_claim_and_from_an_object_store_in_a_pod_as_from_a_folder(served: ByJob, tmp_path: Path) -> None:
    for name in (
        "runs/a/config.yaml",
        "runs/a/checkpoints/1/weights",
        "runs/b/config.yaml",
        ".jobs/j/job.json",
        "runs/.x/y.yaml",
    ):
        path = tmp_path / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    expected = {
        ("runs/*/*.yaml",): {"runs/a/config.yaml", "runs/b/config.yaml"},
        ("runs/[a-b]/config.yaml", "runs/[c]/config.yaml"): {"runs/a/config.yaml", "runs/b/config.yaml"},
        ("runs/a", "runs/absent"): {"runs/a/config.yaml", "runs/a/checkpoints/1/weights"},
        (".jobs/*/job.json",): {".jobs/j/job.json"},
    }
    with sent_by_job((tmp_path / "store").as_uri()) as of_store:
        storages: list[Storage] = [InPlace(str(tmp_path / "store")), served, of_store]
        for number, storage in enumerate(storages):
            for case, (patterns, names) in enumerate(expected.items()):
                to = tmp_path / f"{number}-{case}"
                to.mkdir()
                storage.fetch(patterns, to)
                found = {path.relative_to(to).as_posix(): path.read_text() for path in to.rglob("*") if path.is_file()}
                assert found == {name: name for name in names}


def test_the_records_of_a_thousand_runs_come_in_one_request(served: ByJob, tmp_path: Path) -> None:
    names = [f"runs/{'a-long-name-of-a-run-' * 4}{number}" for number in range(1000)]
    for name in names:
        (tmp_path / "store" / name).mkdir(parents=True)
        (tmp_path / "store" / name / "events.jsonl").write_text(name)
    files_of_runs = [f"{name}/{file}" for name in names for file in ("attempts*.jsonl", "events*.jsonl", "journal/*.jsonl")]
    served.fetch(files_of_runs, tmp_path / "copy")
    assert all((tmp_path / "copy" / name / "events.jsonl").read_text() == name for name in names)


def test_files_that_arrive_in_part_are_not_taken_for_all(tmp_path: Path) -> None:
    with serving() as server:

        def cut(handler: Any) -> bool:
            handler.send_response(200)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return True

        server.faults.append(cut)
        with pytest.raises(Unreachable, match="did not arrive completely"):
            ByJob(server.url).fetch(["runs"], tmp_path)


def test_the_job_names_the_command_that_brings_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in in_a_job("/mnt/heliostat", "x-1", run="x", on="my gpu.yaml").items():
        monkeypatch.setenv(name, value)
    assert pull_command("/mnt/heliostat/runs/x") == "heliostat runs pull x --on 'my gpu.yaml'"
    assert shlex.split(pull_command("/mnt/heliostat/team/a/x"))[-2:] == ["--storage", "team/a"]
    assert pull_command("/elsewhere/x") == ""
    monkeypatch.setenv(IN_A_JOB, json.dumps({"metadata": {}}))
    assert pull_command("/mnt/heliostat/runs/x") == "", "its folder is on the user's machine"


def test_cron_says_how_the_last_runs_ended(command: Command, tmp_path: Path) -> None:
    labels = {"heliostat.dev/cluster": "gpu", "heliostat.dev/cron": "nightly"}
    failed = {
        "jobId": "nightly-11260210-x1", "jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "reason": "AppFailed",
        "message": "Job entrypoint command failed with exit code 2, last lines:\nmore", "endTime": "2026-11-26T02:12:00Z",
    }  # fmt: skip
    late = {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "it took too long"}
    done = {"jobId": "nightly-11240210-x3", "jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete", "endTime": "E"}
    with serving() as server:
        server.objects["/openapi/v3/apis/ray.io/v1"] = SCHEMA
        cron = {"spec": {"schedule": "10 2 * * *"}, "metadata": {"labels": labels}}
        server.put("/apis/batch/v1/namespaces/team/cronjobs/nightly", **cron)
        for day, status in ((24, done), (25, late), (26, failed)):
            metadata = {"labels": labels, "creationTimestamp": f"2026-11-{day}T02:10:00Z"}
            server.put(f"/apis/ray.io/v1/namespaces/team/rayjobs/nightly-11{day}0210", metadata=metadata, status=status)
        (command.cwd / "gpu.yaml").write_text(PROFILE)
        there = replace(command, env={**command.env, "KUBECONFIG": str(kubeconfig(tmp_path / "kubeconfig", server))})
        lines = there("cron", "gpu.yaml").out.splitlines()
        (row,) = json.loads(there("cron", "gpu.yaml", "--json").out)
    assert [line.split()[:2] for line in lines[2:5]] == [
        ["nightly-11260210-x1", "FAILED"], ["nightly-11250210", "FAILED"], ["nightly-11240210-x3", "SUCCEEDED"],
    ]  # fmt: skip
    assert lines[2].endswith(
        "ended 2026-11-26T02:12:00Z AppFailed: Job entrypoint command failed with exit code 2, last lines:"
    )
    assert lines[5] == "heliostat logs gpu.yaml JOB shows the output"
    assert [run["state"] for run in row["runs"]] == ["FAILED", "FAILED", "SUCCEEDED"]
