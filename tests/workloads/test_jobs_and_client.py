"""The other ways in: a submitted job and an interactive Ray Client session, on a Ray that was running already."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, Head

RAY = str(Path(sys.executable).parent / "ray")
QUICK = ("--set", "epochs=6")


def submit(head: Head, *entrypoint: str) -> "subprocess.CompletedProcess[str]":
    command = [RAY, "job", "submit", "--address", head.jobs, "--working-dir", ".", "--", *entrypoint]
    return subprocess.run(command, cwd=ROOT, env=dict(head.env), capture_output=True, text=True, timeout=300)


def test_a_submitted_job_trains_and_its_exit_status_is_the_jobs(ray_head: Head) -> None:
    config = "workloads/configs/breast-cancer.yaml"
    done = submit(ray_head, "python", "-m", "heliostat", "train", config, *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "breast-cancer finished at step 78" in done.stdout
    run = ray_head.home / "runs" / "breast-cancer"
    assert json.loads((run / "result.json").read_text())["state"] == "finished", "the working directory of a job goes away"

    uploads = list(Path(ray_head.env["RAY_TMPDIR"]).glob("ray/session_2*/runtime_resources/working_dir_files/_ray_pkg_*/"))
    ours = [upload for upload in uploads if (upload / "heliostat").is_dir()]
    assert ours
    for upload in ours:
        assert not [left_out for left_out in (".venv", "runs", ".git") if (upload / left_out).exists()]

    bad = submit(ray_head, "python", "-m", "heliostat", "train", config, "--set", "optimizer.lr=-1")
    assert bad.returncode == 1, "the exit status of ray job submit for any failed job"
    assert "optimizer.lr is -1" in bad.stdout
    assert "exit code 2" in bad.stdout + bad.stderr


SESSION = """
import ray
ray.init({address!r}, log_to_driver=False, runtime_env={{"working_dir": "."}})
from heliostat import train
result = train("workloads/configs/breast-cancer.yaml", ["name={name}", "epochs=6"])
print(result.state, result.metrics["test"]["accuracy"] > 0.9, result.run)
again = train("workloads/configs/breast-cancer.yaml", ["name={name}", "epochs=6"])
print(again.already)
from heliostat.errors import UserError
try:
    train("workloads/configs/breast-cancer.yaml", ["name={name}", "epochs=6", "workers=4"])
except UserError as error:
    print("refused:", error)
"""


def test_a_ray_client_session_in_a_notebook_trains_and_gets_the_result(ray_head: Head) -> None:
    out = notebook(SESSION.format(address=ray_head.client, name="client"), ray_head)
    assert f"finished True {ray_head.home}/runs/client" in out
    assert "True\n" in out
    assert "refused: workers is 4, each with 1 CPU, but there are 2 CPUs" in out


def test_a_submitted_sweep_and_one_by_ray_client_find_the_same(ray_head: Head) -> None:
    config, settings = "tuning/configs/breast-cancer.yaml", ["trials=4", "concurrency=1"]
    flags = [part for setting in (*settings, "name=by-job") for part in ("--set", setting)]
    done = submit(ray_head, "python", "-m", "heliostat", "sweep", config, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    code = f"""
import ray
ray.init({ray_head.client!r}, log_to_driver=False, runtime_env={{"working_dir": "."}})
from heliostat import sweep
result = sweep({config!r}, {[*settings, "name=by-client"]})
print(result.sweep, result.best_config)
"""
    client = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=dict(ray_head.env), capture_output=True, text=True, timeout=300
    )
    folder = ray_head.home / "runs"
    assert client.stdout == f"{folder}/by-client {folder}/by-client/best.yaml\n", client.stderr
    by_job, by_client = (json.loads((folder / name / "result.json").read_text()) for name in ("by-job", "by-client"))
    assert sum(by_job["states"].values()) == 4
    for key in ("states", "best", "values", "params"):
        assert by_job[key] == by_client[key]


def notebook(code: str, head: Head) -> str:
    """Run the code as the cells of a real Jupyter kernel; what it printed."""
    import nbformat
    from nbclient import NotebookClient

    cells = [nbformat.v4.new_code_cell(code)]  # type: ignore[no-untyped-call]
    book = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    client = NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
    client.execute(env=dict(head.env))
    return "".join(output.get("text", "") for output in book.cells[0].outputs)
