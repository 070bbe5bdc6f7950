"""A task whose model has parts, each with its own loss and optimizer, such as a GAN."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from heliostat.datasets import build
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads import task
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.plan import prepare
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import METRICS
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop
from heliostat.workloads.training.preflight import Tried, try_task
from heliostat.workloads.training.step import Step
from tests.workloads.torchrun.scripts import importable
from tests.workloads.training.test_loop import config, losses, record_of, train, train_with

TASKS = """
import torch
from torch import nn
from heliostat.workloads.examples.gan import Gan, NOISE

class Even(Gan):
    "The noise is a function of the data, so that it does not depend on the worker."
    def model(self):
        model = super().model()
        model.noise = lambda features: torch.sin(features[:, :NOISE].float() * 7)
        return model
    def loss(self, model, batch, part):
        model.sample = lambda count: model.generator(model.noise(batch["features"]))
        return super().loss(model, batch, part)

class Twice(Gan):
    parts = ("discriminator", "discriminator", "generator")

class Misspelt(Gan):
    parts = ("discriminator", "generater")

class Incomplete(Gan):
    parts = ("discriminator",)

class OneLoss(Gan):
    def loss(self, model, batch):
        return model.discriminator(batch["features"]).mean()
"""


@pytest.fixture(scope="module", autouse=True)
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tasks above, for this process and those that it starts."""
    with importable(tmp_path_factory.mktemp("gans"), "gans", TASKS):
        yield


def gan(tmp_path: Path, name: str = "gans:Even", **changes: Any) -> TrainConfig:
    keys = {"optimizer": {"groups": [{"match": "discriminator.*", "lr_scale": 2.0}], "ema": 0.9}, "micro_batch": 12, **changes}
    return config(tmp_path, task=name, model={}, metric={"moments": "lower"}, **keys)


def tried(config: TrainConfig) -> Tried:
    plan = prepare(config)
    assert plan.source
    return try_task(plan.config, build(plan.source, plan.dataset_uri))


def test_a_step_is_that_of_an_optimizer_for_each_part_by_hand(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "warmup_steps": 0, "final_lr": 1.0, "clip_norm": None}
    folder, record = record_of(gan(tmp_path, "heliostat.workloads.examples.gan:Gan", optimizer=settings, micro_batch=None))
    loop = Loop(folder, record, Ranks.of_this_process(), time.time())
    assert isinstance(loop.step, Step)
    torch.manual_seed(record.config.seed)
    theirs: Any = loop.task.model()
    optimizers = {
        part: torch.optim.AdamW(
            [
                {"params": [p for p in getattr(theirs, part).parameters() if p.ndim >= 2], "weight_decay": 0.1},
                {"params": [p for p in getattr(theirs, part).parameters() if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=0.01, betas=(0.9, 0.99), fused=True,
        )
        for part in ("discriminator", "generator")
    }  # fmt: skip
    counted = []
    for step, batch in zip(range(4), loop.step.batches(loop.order, 0), strict=False):
        loop.step(batch, step, lambda loss, samples: counted.append(loss.item()))
        loop.step._seed(step)
        total = 0.0
        for part, optimizer in optimizers.items():
            optimizer.zero_grad()
            theirs.zero_grad()
            loss = task.loss_of(loop.task, part)(theirs, batch.tensors)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()
        assert counted[-1] == pytest.approx(total, rel=1e-6)
    for name, value in loop.model.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


def test_a_killed_gan_resumes_to_the_last_bit_and_says_each_loss(tmp_path: Path) -> None:
    changes = {"optimizer": {"ema": 0.9, "groups": [{"match": "discriminator.*", "lr_scale": 2.0}]}}
    train(gan(tmp_path / "calm", "gans:Twice", **changes))

    def crash(metrics: dict[str, float]) -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        train(gan(tmp_path / "crash", "gans:Twice", **changes), crash)
    train(gan(tmp_path / "crash", "gans:Twice", **changes))
    calm, crashed = (Folder.at(tmp_path / name / "run") for name in ("calm", "crash"))
    assert losses(crashed) == losses(calm)
    last = [checkpoint.committed(folder)[-1].read() for folder in (calm, crashed)]
    for section in ("model", "optimizer"):
        assert last[0][section].keys() == last[1][section].keys()
        assert all(torch.equal(value, last[1][section][name]) for name, value in last[0][section].items())
    assert {name.split(".")[0] for name in last[0]["optimizer"]} >= {"discriminator", "generator"}
    evaluated = next(r for r in read_journal(calm, METRICS) if r["kind"] == "eval")["metrics"]
    assert evaluated["loss"] == pytest.approx(evaluated["discriminator_loss"] + evaluated["generator_loss"])


def test_two_workers_train_the_parts_as_one_does_replicated_and_sharded(tmp_path: Path) -> None:
    train(gan(tmp_path / "1"))
    curve = losses(Folder.at(tmp_path / "1" / "run"))
    configs = [gan(tmp_path / kind, workers=2, parallelism=kind) for kind in ("ddp", "fsdp")]
    for kind, other in zip(("ddp", "fsdp"), train_with(2, configs), strict=True):
        assert other == pytest.approx(curve, rel=1e-4), kind


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Misspelt", ("has the part 'generater'", "did you mean generator?")),
        ("Incomplete", ("generator.0.weight", "belong to no part", "put them into discriminator")),
        ("OneLoss", ("its loss takes (self, model, batch)", "write loss(self, model, batch, part)")),
    ],
)
def test_parts_that_do_not_fit_the_model_are_refused(tmp_path: Path, name: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as refused:
        tried(gan(tmp_path, f"gans:{name}"))
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize("steps", [None, 10])
def test_a_part_that_is_frozen_is_refused(tmp_path: Path, steps: int | None) -> None:
    """Also if only for the first steps, in which it has nothing to train."""
    found = gan(tmp_path, "heliostat.workloads.examples.gan:Gan")
    optimizer = found.optimizer.model_copy(update={"freeze": ["generator.*"], "freeze_steps": steps})
    with pytest.raises(UserError, match=r"all parameters of the part generator are frozen\n  fix: freeze fewer"):
        tried(found.model_copy(update={"optimizer": optimizer}))


def test_the_gan_of_the_examples_passes_the_try(tmp_path: Path) -> None:
    found = tried(gan(tmp_path, "heliostat.workloads.examples.gan:Gan"))
    assert found.metrics == ("loss", "discriminator_loss", "generator_loss", "moments")
    assert found.notes == ()
