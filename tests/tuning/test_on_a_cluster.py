"""A sweep on an autoscaling cluster of processes: from zero GPU nodes and back, with the cost of each trial."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from heliostat.folder import Folder
from heliostat.tuning.journal import read_journal
from tests.conftest import Command, end_group, gone, processes_of, wait_for
from tests.notebook import notebook, texts

PROFILE = """
platform: local
head: {cpu: 1, memory: 2Gi, price_per_hour: 0}
groups:
  - {name: gpu, gpu: 1, gpu_type: A100-80GB, cpu: 1, memory: 2Gi, max: 2, idle_seconds: 8, price_per_hour: 3600}
storage: {uri: .}
idle_shutdown_seconds: null
"""
SWEEP = """
train: {task: "slow:Slow", dataset: {source: breast-cancer}, epochs: 20, global_batch: 32, evaluate_every: 26}
space: {optimizer.lr: {loguniform: [1e-4, 1e-1]}}
trials: 8
algorithm: random
scheduler: none
"""

SLOW = """
import time
from pathlib import Path
from heliostat.workloads.tasks.tabular_classification import TabularClassification

HERE = Path({place!r})

class Slow(TabularClassification):
    def loss(self, model, batch):
        if (HERE / "slow").exists() and len([*HERE.glob("runs/lr-sweep/trials/*/result.json")]) >= 2:
            time.sleep(0.1)
        return super().loss(model, batch)
"""
"""When two trials have ended, the steps of the others take long while there is a file ``slow``, and so the sweep goes on."""

NOTEBOOK = """
import json
from heliostat import sweep, train
from heliostat.config import read_mapping
found = sweep({**read_mapping("lr.yaml"), "name": "lr-sweep"}, on="local-cluster.yaml")
#%%
print(json.dumps({**found.result.model_dump(), "report": found.report, "rows": len(found.trials)}))
#%%
train(found.best_config, on="local-cluster.yaml", name="best", epochs=2)
"""
"""The same sweep from Python, with a config that is in no file; and a run with the best config."""


@pytest.fixture
def cluster(command: Command) -> Iterator[Command]:
    """The command in a folder with a running cluster."""
    (command.cwd / "local-cluster.yaml").write_text(PROFILE)
    (command.cwd / "lr.yaml").write_text(SWEEP)
    (command.cwd / "slow.py").write_text(SLOW.format(place=str(command.cwd)))
    done = command("up", "local-cluster.yaml")
    assert done.code == 0, done.err
    yield command
    assert command("down", "local-cluster.yaml", "--yes").code == 0
    gone(command.env)


def drivers(command: Command) -> list[psutil.Process]:
    """The processes of the sweep's driver: the job's entrypoint, not the command that follows it."""
    here = processes_of(command.env, "heliostat sweep lr.yaml")
    return [process for process in here if "--on" not in process.cmdline() and process.cmdline()[0].endswith("python")]


def test_a_sweep_from_zero_gpu_nodes_survives_its_driver_and_returns_to_zero(cluster: Command) -> None:
    def ends() -> int:
        records = read_journal(Folder.at(cluster.cwd / "runs" / "lr-sweep"))
        return sum(record["event"] == "end" for record in records)

    slow = cluster.cwd / "slow"
    slow.touch()
    first = cluster.start("sweep", "lr.yaml", "--on", "local-cluster.yaml")
    try:
        wait_for(lambda: ends() >= 2 or first.poll() is not None, "two trials to end")
        for process in drivers(cluster):
            process.kill()
        _, err = first.communicate(timeout=300)
    finally:
        end_group(first)
    assert first.returncode not in (0, 2), err
    slow.unlink()
    before = ends()
    assert 2 <= before < 8
    swept, printed, trained = notebook(NOTEBOOK, cluster.cwd, cluster.env)
    table = next(output["data"] for output in swept if "8 of 8 trials done" in output.get("data", {}).get("text/plain", ""))
    assert table["text/html"].count("<td>finished</td>") == 8, "also the trials of the first session"
    assert "{" not in texts(swept).splitlines(), "what the job prints is shown, but not its document"
    assert any("image/png" in output.get("data", {}) for output in trained), texts(trained)
    assert "best: step 26" in texts(trained)
    result = json.loads(texts(printed))
    assert result["rows"] == 8
    assert result["states"] == {"finished": 8}
    records = read_journal(Folder.at(cluster.cwd / "runs" / "lr-sweep"))
    assert sorted(record["trial"] for record in records if record["event"] == "end") == list(range(8))
    # One worker takes a whole node, which costs 1 a second.
    assert result["cost"] == pytest.approx(result["gpu_seconds"], rel=0.05)
    assert Path(result["report"]).exists()
    exported = cluster("model", "export", "lr-sweep", "--to", "torch", "--output", "model", "--on", "local-cluster.yaml")
    assert exported.code == 0, exported.err
    assert "compared with the run" in exported.out
    assert (cluster.cwd / "model/model.pt2").exists(), "by a task on a GPU node: the head has no CPU for one"

    def gpus() -> int:
        return sum(group["ready"] for group in json.loads(cluster("status", "local-cluster.yaml", "--json").out)["groups"])

    began = time.monotonic()
    wait_for(lambda: gpus() == 0, "the GPU nodes to go")
    print(f"no GPU node {time.monotonic() - began:.1f} s after the sweep's end")
