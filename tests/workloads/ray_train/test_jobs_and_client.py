"""The other ways in: a submitted job and an interactive Ray Client session, on a Ray that was running already."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, Command, Head
from tests.notebook import notebook, texts

RAY = str(Path(sys.executable).parent / "ray")


def submit(head: Head, *entrypoint: str) -> "subprocess.CompletedProcess[str]":
    command = [RAY, "job", "submit", "--address", head.jobs, "--working-dir", ".", "--", *entrypoint]
    return subprocess.run(command, cwd=ROOT, env=dict(head.env), capture_output=True, text=True, timeout=300)


def test_a_submitted_job_trains_and_its_exit_status_is_the_jobs(ray_head: Head) -> None:
    config = "workloads/configs/breast-cancer.yaml"
    train = f"python -m heliostat train {config} --set epochs=6"
    done = submit(ray_head, "bash", "-c", f"{train} && {train} --set name=bad --set optimizer.lr=-1")
    assert "breast-cancer finished at step 78" in done.stdout, done.stdout + done.stderr
    run = ray_head.home / "runs" / "breast-cancer"
    assert json.loads((run / "result.json").read_text())["state"] == "finished", "the working directory of a job goes away"

    uploads = list(Path(ray_head.env["RAY_TMPDIR"]).glob("ray/session_2*/runtime_resources/working_dir_files/_ray_pkg_*/"))
    ours = [upload for upload in uploads if (upload / "heliostat").is_dir()]
    assert ours
    for upload in ours:
        assert not [left_out for left_out in (".venv", "runs", ".git") if (upload / left_out).exists()]

    assert done.returncode == 1, "the exit status of ray job submit for any failed job"
    assert "optimizer.lr is -1" in done.stdout
    assert "exit code 2" in done.stdout + done.stderr


CLIENT = """
import ray
ray.init({address!r}, log_to_driver=False, runtime_env={{"working_dir": "."}})
from heliostat import train
run = train("breast-cancer", name="client", epochs=6)
print(run.state, run.metrics["test"]["accuracy"] > 0.9, run.run, len(run.history) > 2)
train("breast-cancer", name="client", epochs=6).already
#%%
train("breast-cancer", ["name=client", "epochs=6"], workers=4)
#%%
from heliostat import sweep
found = sweep({sweep!r}, trials=4, concurrency=1, name="by-client")
print(found.sweep, found.best_config)
"""


def test_a_notebook_with_ray_client_trains_and_sweeps_and_gets_the_results(ray_head: Head) -> None:
    config, folder = "tuning/configs/breast-cancer.yaml", ray_head.home / "runs"
    first, refused, swept = notebook(CLIENT.format(address=ray_head.client, sweep=config), ROOT, ray_head.env)
    assert f"finished True {folder}/client True" in texts(first)
    assert "client: step 78" in texts(first), "the picture follows the run on the head"
    assert any("image/png" in output.get("data", {}) for output in first)
    assert first[-1]["data"]["text/plain"] == "True"
    assert "UserError: workers is 4, each with 1 CPU, but there are 2 CPUs" in texts(refused)
    assert "Traceback" not in texts(refused)
    assert f"{folder}/by-client {folder}/by-client/best.yaml\n" in texts(swept)
    assert "4 of 4 trials done" in texts(swept)
    assert sum(json.loads((folder / "by-client/result.json").read_text())["states"].values()) == 4


SLOW = """
import os, time
from heliostat.workloads.tasks.tabular_classification import TabularClassification

class Slow(TabularClassification):
    def loss(self, model, batch):
        time.sleep(0.1 * os.path.exists({file!r}))
        return super().loss(model, batch)
"""
"""A task whose steps take long while a file is there: else a run may have ended before it is interrupted."""
KERNEL = """
import os, signal, threading, time
from heliostat import sweep, train
def interrupt():
    curves = "runs/long/metrics.jsonl"
    while not (os.path.exists(curves) and "eval" in open(curves).read()):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
long = {"name": "long", "task": "slow:Slow", "steps": 800, "epochs": None, "evaluate_every": 20, "early_stopping": None}
train("breast-cancer", **long)
#%%
os.remove("slow")
train("breast-cancer", **long)
#%%
sweep("breast-cancer", trials=2, train={"epochs": 2}).trial().state
"""


def test_a_notebook_shows_curves_that_move_and_its_interruption_stops_a_run_that_can_be_continued(on_ray: Command) -> None:
    (on_ray.cwd / "slow").touch()
    (on_ray.cwd / "slow.py").write_text(SLOW.format(file=str(on_ray.cwd / "slow")))
    stopped, continued, swept = notebook(KERNEL, on_ray.cwd, on_ray.env)
    assert "Stopped: stopped at step" in texts(stopped)
    assert "with a checkpoint" in texts(stopped)
    before, after = (next(each for each in cell if "image/png" in each.get("data", {})) for cell in (stopped, continued))
    assert before["data"]["text/plain"].startswith("long: step ")
    assert len(after["data"]["image/png"]) > 5000, "the last picture stays, with the curves of both sessions"
    assert "finished at step" in after_html(continued)
    assert "2 of 2 trials done" in texts(swept), "a kernel has an event loop of its own"
    assert swept[-1]["data"]["text/plain"] == "'finished'"


def after_html(outputs: list[Any]) -> str:
    return str(outputs[-1]["data"]["text/html"])
