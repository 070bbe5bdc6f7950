"""``heliostat train --scaling``: how fast a config is on several numbers of workers."""

import json
import signal
from pathlib import Path

import pytest
from ray.train.v2.api.exceptions import WorkerGroupError

from heliostat.cli import main, parser_of
from heliostat.commands.train import request_for
from heliostat.config import config_path, load
from heliostat.datasets import Dataset
from heliostat.environment import DATASETS
from heliostat.errors import JobFailed
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.ray_train import scaling
from heliostat.workloads.ray_train.trainer import Fit, Trainer
from tests.conftest import Command, end_group, wait_for

WIDE = """
import torch
from torch import nn
from heliostat import Task

class Wide(Task):
    \"\"\"Its gradients are far more work to average than to compute.\"\"\"
    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 2048), nn.Linear(2048, 1024), nn.Linear(1024, 10))

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch["image"].float()), batch["label"].long())

    def metrics(self, model, batch):
        return {"loss": self.loss(model, batch)}
"""

STUCK = f"""{WIDE}

class Stuck(Wide):
    def loss(self, model, batch):
        while torch.distributed.is_initialized() and torch.distributed.get_world_size() == 2:
            open("measuring-two", "w").close()
        return super().loss(model, batch)
"""
"""The same, but its first step never ends with two workers."""


def test_the_speed_and_the_cost_of_each_number_of_workers(on_ray: Command) -> None:
    (on_ray.cwd / "wide.py").write_text(WIDE)
    nodes = json.dumps([{"CPU": 2, "GPU": 0, "price": 0.5, "nodes": 1}])
    command = Command(on_ray.cwd, {**on_ray.env, "HELIOSTAT_NODES": nodes})
    keys = [word for key in ("task=wide:Wide", "model={}", "global_batch=8") for word in ("--set", key)]
    done = command("train", "digits", "--scaling", "2,1", *keys, "--json")
    assert done.code == 0, done.err
    rows = Dataset.open(str(next((on_ray.cwd / "runs" / DATASETS).glob("digits-*")))).index.rows("train")
    one, two = json.loads(done.out)["sizes"]
    assert (one["workers"], two["workers"]) == (1, 2), "in ascending order, whatever the command's"
    for size in (one, two):
        assert size["lowest"] <= size["samples_per_second"] <= size["highest"]
        assert 0 <= size["data_wait"] < 1
        assert size["seconds"] == pytest.approx(25 * rows / size["samples_per_second"], rel=0.01)
        assert size["price"] == pytest.approx(0.25 * size["workers"])
        assert size["cost"] == pytest.approx(size["price"] * size["seconds"] / 3600)
    assert one["efficiency"] == 1
    assert two["efficiency"] == pytest.approx(two["samples_per_second"] / one["samples_per_second"] / 2)
    assert one["communication"] is None, "there is no other worker"
    assert two["communication"] > 0.1
    assert not (on_ray.cwd / "runs" / "digits").exists(), "no run is left"


def test_a_worker_that_dies_while_it_is_measured_is_named_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(trainer: Trainer) -> Fit:
        died = RuntimeError("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR")
        fit = Fit(error=WorkerGroupError("many lines", {1: died}))
        fit.done.set()
        return fit

    monkeypatch.setattr(Trainer, "start", start)
    keys = {"name": "run", "task": "image_classification", "dataset": {"source": "digits"}, "steps": 5, "workers": 2}
    config = TrainConfig.model_validate({**keys, "resources": {"gpu": 0}})
    with pytest.raises(JobFailed, match=r"^worker 1 was killed, by a signal"):
        scaling._fit(config, {})


def test_ctrl_c_ends_it_with_what_was_measured_before(on_ray: Command) -> None:
    (on_ray.cwd / "stuck.py").write_text(STUCK)
    keys = [word for key in ("task=stuck:Stuck", "model={}", "global_batch=8") for word in ("--set", key)]
    process = on_ray.start("train", "digits", "--scaling", "1,2", *keys)
    try:
        measuring = on_ray.cwd / "measuring-two"
        wait_for(lambda: measuring.exists() or process.poll() is not None, "the measurement with two workers")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        end_group(process)
    assert process.returncode == 130, err
    assert "stopped while it measured; no run is left" in err
    assert "Traceback" not in err
    header, row, _ = out.splitlines()
    assert header.split()[:2] == ["workers", "samples/s"]
    assert row.split()[0] == "1", "the other one was not measured"


def test_on_a_cluster_it_is_a_job_of_its_own_which_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["train", "digits", "--scaling", "1,2", "--on", "local"]
    config = load(config_path("digits", "workloads/configs"), TrainConfig, [], {"name": "digits"})
    request = request_for(config, parser_of(line).parse_args(line))
    assert (request.name, request.command) == ("digits-scaling", ["train", "digits", "--scaling", "1,2"])
    assert request.stopped == "no run is left of what it measured"
    whole = request_for(config, parser_of(line).parse_args([*line[:2], *line[4:]]))
    assert (whole.name, whole.stopped) == ("digits", "the same command resumes from the last checkpoint")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("digits --scaling 1,two,0", ["--scaling has 'two'", "--scaling has '0'", "1,2,4"]),
        ("digits --scaling 1,2 --in-process --dry-run", ["--in-process does not use", "--dry-run does not start"]),
        ("digits --scaling 1,2 --dashboard --if-new", ["--dashboard does not show", "--if-new does not measure"]),
        ("digits --scaling 1,4 --on local", ["workers is 4", "there are 2 CPUs", "set workers to 2"]),
        ("digits --scaling 1,128", ["workers", "128", "global_batch"]),
        ("digits --scaling 1,64", ["workers is 64", "set workers to"]),
    ],
)
def test_sizes_that_cannot_be_measured_are_refused(
    line: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *line.split()]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words), err
    assert not list(tmp_path.iterdir())
