"""Optimizers, schedules, groups, freezing, averaged weights and fp16: what each does, and that each resumes to the bit."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from heliostat.config import as_config
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.inference import evaluate, load_run
from heliostat.workloads.optimization.config import OptimizerConfig
from heliostat.workloads.optimization.optimizers import check_options
from heliostat.workloads.optimization.schedule import check_schedule, learning_rate
from heliostat.workloads.plan import prepare
from heliostat.workloads.run import checkpoint, code
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import METRICS, RunRecord
from heliostat.workloads.training import precision
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop
from heliostat.workloads.training.optimizer import clip_values
from heliostat.workloads.training.parameters import groups_of
from heliostat.workloads.training.precision import compute_dtype
from heliostat.workloads.training.start import preview
from tests.workloads.group import in_group
from tests.workloads.torchrun.scripts import importable
from tests.workloads.training.test_loop import PLAIN, losses, record_of, train

CODE = """
import torch
from torch import nn
from heliostat.workloads.tasks import tabular_classification

class Net(nn.Module):
    def __init__(self, inputs, norm):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(inputs, 8), nn.BatchNorm1d(8) if norm else nn.LayerNorm(8))
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2)])
        self.head = nn.Linear(8, 2)
    def forward(self, x):
        x = self.stem((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

class Task(tabular_classification.TabularClassification):
    norm = False
    def model(self):
        return Net(self.index.fields["features"].shape[0], self.norm)
    def blocks(self, model):
        return list(model.layers)
    def _logits(self, model, batch):
        return model(batch["features"])[:, None]

class Normed(Task):
    norm = True

class Nan(Task):
    "A gradient of a root at 0."
    def loss(self, model, batch):
        return super().loss(model, batch) + (0 * model.head.bias.sum()).abs().sqrt()

class Sign(torch.optim.Optimizer):
    "Its state is a number of each parameter and one of each group."
    def __init__(self, params, lr=1e-3, *, gain=1.0):
        super().__init__(params, {"lr": lr, "gain": gain, "seen": 0})
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["seen"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state["count"] = state.get("count", 0) + 1
                p.sub_(p.grad.sign() * group["lr"] * group["gain"] / state["count"] ** 0.5 / group["seen"] ** 0.5)

class Hidden(Sign):
    "What it counts is not in its state."
    count = 0
    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            group["lr"] = group["lr"] / self.count
        super().step()

class Objects(Sign):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["history"] = [1]

class Broken(Sign):
    def step(self, closure=None):
        raise AssertionError("call first_step")

class Kernels(Sign):
    def step(self, closure=None):
        raise RuntimeError("no CUDA kernel for this tensor")

class Decays(Sign):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data.mul_(0.9)

class NoRate(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})

def halving(step, total, every=2):
    return 0.5 ** (step // every)

def stepping(step, total):
    stepping.calls = getattr(stepping, "calls", 0) + 1
    return 1 / stepping.calls

def late(step, total):
    return None if step > 60 else 1.0

def no_arguments():
    return 1.0
"""


@pytest.fixture(scope="module", autouse=True)
def _code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The code above, for this process and those that it starts."""
    with importable(tmp_path_factory.mktemp("code"), "optimizing", CODE):
        yield


def config(storage: Path, **changes: Any) -> TrainConfig:
    keys = {
        **PLAIN, "task": "optimizing:Task", "model": {}, "name": "run", "storage": str(storage), "global_batch": 48, "steps": 8,
        "log_every": 1, "evaluate_every": 3, "checkpoint_every": 2, **changes,
    }  # fmt: skip
    return TrainConfig.model_validate(keys)


def records(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    return [record for record in read_journal(Folder.at(folder), METRICS) if record["kind"] == kind]


def state(folder: Path, at: int = -1) -> dict[str, Any]:
    return checkpoint.committed(Folder.at(folder))[at].read()


def updates(record: dict[str, Any]) -> dict[str, Any]:
    """What a record has of its step's update."""
    return {key: record[key] for key in ("lr", "lrs", "loss_scale", "skipped_steps") if key in record}


# Every run resumes to the bit, and several workers compute what one does

MOMENTUM = {"type": "sgd", "options": {"momentum": 0.9, "nesterov": True}, "lr": 0.1, "schedule": "one-cycle"}
GROUPS = {"type": "adam", "groups": [{"match": "head.*", "lr_scale": 3.0, "weight_decay": 0.1}], "layer_decay": 0.5}
AVERAGED = {"ema": 0.9, "schedule": "warmup-stable-decay", "warmup_steps": 2, "schedule_options": {"decay_share": 0.5}}
OWN = {
    "type": "optimizing:Sign", "options": {"gain": 2.0}, "schedule": "optimizing:halving", "schedule_options": {"every": 3}
}  # fmt: skip
FROZEN = {"freeze": ["stem.*", "layers.0.*"], "freeze_steps": 4, "lr": 0.01, "schedule": "constant", "clip_value": 0.1}
RUNS: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": MOMENTUM},
    "groups": {"optimizer": GROUPS},
    "averaged": {"optimizer": AVERAGED},
    "averaged and frozen": {"optimizer": {**AVERAGED, **FROZEN, "schedule": "linear", "schedule_options": {}}},
    "half": {"optimizer": {"lr": 0.01}, "precision": "fp16"},
    "frozen": {"task": "optimizing:Normed", "optimizer": FROZEN},
    "own": {"optimizer": OWN},
    "library": {"optimizer": {"type": "torch.optim:Adafactor", "lr": 0.01}},
}


def crash(metrics: dict[str, float]) -> None:
    raise RuntimeError("power cut")


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_killed_and_resumed_has_the_same_losses_and_weights_to_the_last_bit(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From checkpoints of step 2 and step 6, before and after the end of ``freeze_steps``."""
    monkeypatch.setattr(precision, "INITIAL", 2.0**127)  # with fp16 the first steps are skipped
    train(config(tmp_path / "calm", **RUNS[name], evaluate_every=7))
    for evaluate_every in (3, 7):
        with pytest.raises(RuntimeError):
            train(config(tmp_path / "storm", **RUNS[name], evaluate_every=evaluate_every), crash)
    train(config(tmp_path / "storm", **RUNS[name], evaluate_every=7))
    calm, storm = tmp_path / "calm/run", tmp_path / "storm/run"
    assert losses(Folder.at(storm)) == losses(Folder.at(calm))
    assert [updates(each) for each in records(storm)] == [updates(each) for each in records(calm)]
    one, other = state(calm), state(storm)
    for section in checkpoint.SECTIONS:
        assert one[section].keys() == other[section].keys()
        assert all(torch.equal(value, other[section][key]) for key, value in one[section].items()), section
    assert one["numbers"] == other["numbers"]
    assert losses(Folder.at(calm))[8] < losses(Folder.at(calm))[1]


class PowerCut(Exception):
    pass


def _worker(rank: int, jobs: list[tuple[str, dict[str, Any], int]]) -> None:
    for run, record, crash in jobs:
        try:
            loop = Loop(Folder.at(run), RunRecord.model_validate(record), Ranks.of_this_process(), time.time())
            step = loop._step

            def limited(batch: Any, loop: Loop = loop, step: Any = step, crash: int = crash) -> None:
                if loop.progress.step == crash:
                    raise PowerCut
                step(batch)

            loop._step = limited  # type: ignore[method-assign]
            loop.run()
        except PowerCut:
            pass
        except UserError as error:
            Path(run, f"refused-{rank}").write_text(str(error))


def test_two_workers_compute_what_one_does_with_whole_and_sharded_models_and_resume_to_the_bit(tmp_path: Path) -> None:
    runs = {name: {**changes, "task": "optimizing:Task", "steps": 6} for name, changes in RUNS.items()}
    parts = {
        "whole": ("groups", "averaged and frozen", "half"),
        "sharded": ("momentum", "averaged and frozen", "half", "own", "library"),
    }
    keys: dict[str, dict[str, Any]] = {"whole": {"workers": 2}, "sharded": {"workers": 2, "parallelism": "fsdp"}}
    configs = [(config(tmp_path / kind / name, **runs[name], **keys[kind]), -1) for kind in parts for name in parts[kind]]
    resumed = "averaged and frozen"
    configs += [(config(tmp_path / "resumed" / resumed, **runs[resumed], **keys["sharded"]), crash) for crash in (3, 5, -1)]
    configs += [(config(tmp_path / "alone" / resumed, **runs[resumed], **keys["sharded"]), 5)]
    jobs = [(*record_of(each), crash) for each, crash in configs]
    in_group(_worker, 2, [(str(folder), record.model_dump(mode="json"), crash) for folder, record, crash in jobs])
    curves = {}
    for name in dict.fromkeys(name for names in parts.values() for name in names if name != "library"):
        train(config(tmp_path / "one" / name, **runs[name]))
        curves[name] = losses(Folder.at(tmp_path / "one" / name / "run"))
    for kind, name in ((kind, name) for kind, names in parts.items() for name in names if name != "library"):
        run = tmp_path / kind / name / "run"
        close = pytest.approx(curves[name], rel=2e-2 if name == "half" else 1e-4)
        assert losses(Folder.at(run)) == close, (kind, name)
        measured = records(run, "eval")[-1]["metrics"]
        assert evaluate(run, "validation")["metrics"] == pytest.approx(measured, rel=1e-3), (kind, name)
    refused = (tmp_path / "sharded/library/run/refused-1").read_text()
    assert "optimizer.type torch.optim:Adafactor" in refused
    assert "fix: set parallelism to ddp" in refused
    calm, storm = (tmp_path / kind / resumed / "run" for kind in ("sharded", "resumed"))
    assert losses(Folder.at(storm)) == losses(Folder.at(calm))
    one, other = state(calm), state(storm)
    for section in checkpoint.SECTIONS:
        assert all(torch.equal(value, other[section][key]) for key, value in one[section].items()), section
    train(config(tmp_path / "alone" / resumed, **runs[resumed]))
    assert losses(Folder.at(tmp_path / "alone" / resumed / "run")) == pytest.approx(curves[resumed], rel=1e-4)


# What the keys mean


def test_the_schedules() -> None:
    def rates(**keys: Any) -> list[float]:
        optimizer = OptimizerConfig(lr=1.0, **keys)
        check_schedule(optimizer)
        return [round(learning_rate(step, 10, optimizer), 4) for step in range(10)]

    assert rates(schedule="constant", warmup_steps=2) == [0.5] + [1.0] * 9
    assert rates(schedule="linear", warmup_steps=0, final_lr=0.0) == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    stable = {"schedule": "warmup-stable-decay", "schedule_options": {"decay_share": 0.4}, "warmup_steps": 2, "final_lr": 0.2}
    assert rates(**stable) == [0.5, *[1.0] * 6, 0.8, 0.6, 0.4]
    cycle = rates(schedule="one-cycle")
    assert cycle.index(max(cycle)) == 3
    assert (cycle[0], cycle[3]) == (0.04, 1.0)
    assert cycle[3:] == sorted(cycle[3:], reverse=True)
    assert rates(schedule="optimizing:halving") == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625]
    schedule = torch.optim.lr_scheduler.OneCycleLR  # whose last step is one earlier
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = schedule(optimizer, max_lr=1.0, total_steps=11, pct_start=4 / 11)
    found = []
    for _ in range(10):
        found.append(round(float(theirs.get_last_lr()[0]), 4))
        optimizer.step()
        theirs.step()
    assert cycle == pytest.approx(found, abs=1e-3)


def test_groups_by_pattern_and_layer() -> None:
    import optimizing  # type: ignore[import-not-found]

    model = optimizing.Net(3, False)
    keys = {"groups": [{"match": "*.bias", "lr_scale": 2.0}, {"match": "stem.1.*", "weight_decay": 0.3}], "layer_decay": 0.5}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = groups_of(model, list(model.layers), OptimizerConfig.model_validate(keys))
    found = {
        names[id(each)]: (group.label, group.lr_scale, group.weight_decay) for group in groups for each in group.parameters
    }
    assert found == {
        "stem.0.weight": ("others layer 0", 0.125, 0.05),
        "stem.0.bias": ("*.bias layer 0", 0.25, 0.0),
        "stem.1.weight": ("stem.1.* layer 0", 0.125, 0.3),
        "stem.1.bias": ("*.bias layer 0", 0.25, 0.0),
        "layers.0.0.weight": ("others layer 1", 0.25, 0.05),
        "layers.0.0.bias": ("*.bias layer 1", 0.5, 0.0),
        "layers.1.0.weight": ("others layer 2", 0.5, 0.05),
        "layers.1.0.bias": ("*.bias layer 2", 1.0, 0.0),
        "head.weight": ("others layer 3", 1.0, 0.05),
        "head.bias": ("*.bias layer 3", 2.0, 0.0),
    }


def test_the_rates_of_groups_are_recorded_and_are_what_the_optimizer_uses(tmp_path: Path) -> None:
    keys = {"type": "sgd", "schedule": "constant", "warmup_steps": 0, "lr": 0.01, "clip_norm": None, "clip_value": 1e-6}
    groups = [{"match": "head.*", "lr_scale": 10.0}]
    train(config(tmp_path, optimizer={**keys, "groups": groups}, steps=1, checkpoint_every=1, evaluate_every=1))
    assert updates(records(tmp_path / "run")[0]) == {"lr": 0.01, "lrs": {"others": 0.01, "head.*": 0.1}}
    train(config(tmp_path, name="same", optimizer=keys, steps=1, checkpoint_every=1, evaluate_every=1))
    assert updates(records(tmp_path / "same")[0]) == {"lr": 0.01}
    scaled, plain = (load_run(tmp_path / name).model.state_dict() for name in ("run", "same"))
    torch.manual_seed(0)
    new = prepared(tmp_path).model.state_dict()
    for name, at_most in (("stem.0.weight", 1e-8), ("head.bias", 1e-7)):
        moved, other = (float((each[name] - new[name]).abs().max()) for each in (scaled, plain))
        assert moved == pytest.approx(at_most, rel=0.5)
        assert other == pytest.approx(1e-8, rel=0.5)


def prepared(tmp_path: Path, **changes: Any) -> Loop:
    folder, record = record_of(config(tmp_path, name="new", **changes))
    return Loop(folder, record, Ranks.of_this_process(), time.time())


def test_values_are_clipped_in_gradients_of_any_kind() -> None:
    parameters = [nn.Parameter(torch.zeros(2, dtype=dtype)) for dtype in (torch.float32, torch.float64, torch.complex64)]
    clip_values(parameters, 1.0)
    for parameter in parameters:
        parameter.grad = torch.tensor([3, -2]).to(parameter.dtype) * (1j if parameter.is_complex() else 1)
    clip_values(parameters, 1.0)
    assert [parameter.grad.tolist() for parameter in parameters if parameter.grad is not None] == [[1, -1], [1, -1], [1j, -1j]]


def test_frozen_parts_stay_as_they_are_until_freeze_ends(tmp_path: Path) -> None:
    keep = {"last": 9}
    train(config(tmp_path, **RUNS["frozen"], keep=keep, checkpoint_every=1))
    new = prepared(tmp_path, **RUNS["frozen"]).model.state_dict()
    (before, after) = (state(tmp_path / "run", at) for at in (3, 5))
    stem = [name for name in new if name.startswith(("stem.", "layers.0."))]
    assert "stem.1.running_mean" in stem
    assert all(torch.equal(before["model"][name], new[name]) for name in stem)
    assert not any(torch.equal(after["model"][name], new[name]) for name in stem)
    assert not any(place.startswith(("stem.", "layers.0.")) for place in before["optimizer"])
    assert any(place.startswith("stem.") for place in after["optimizer"])
    assert not torch.equal(before["model"]["head.weight"], new["head.weight"])


def test_the_average_of_the_weights_is_what_is_saved_evaluated_and_used(tmp_path: Path) -> None:
    train(config(tmp_path, optimizer={"ema": 0.5, "lr": 0.05}, keep={"last": 9}, checkpoint_every=1, evaluate_every=1))
    states = [state(tmp_path / "run", at) for at in range(8)]
    name = "head.weight"
    average = prepared(tmp_path).model.state_dict()[name].clone()
    for step, each in enumerate(states):
        average.lerp_(each["trained"][name], 1 - min(0.5, (1 + step) / (10 + step)))
        assert torch.allclose(each["model"][name], average)
        assert not torch.equal(each["model"][name], each["trained"][name])
    measured = {each["step"]: each["metrics"]["loss"] for each in records(tmp_path / "run", "eval")}
    run = load_run(tmp_path / "run")
    assert torch.equal(run.model.state_dict()[name], states[run.step - 1]["model"][name])
    assert evaluate(tmp_path / "run", "validation")["metrics"]["loss"] == pytest.approx(measured[run.step])


def test_fp16_skips_steps_that_overflow_and_diverges_when_the_scale_does_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "INITIAL", 2.0**127)
    half: dict[str, Any] = {"precision": "fp16", "optimizer": {"type": "sgd", "options": {"momentum": 0.9}, "lr": 0.1}}
    assert train(config(tmp_path, steps=140, evaluate_every=140, **half)).state == "finished"
    last = records(tmp_path / "run")[-1]
    assert last["skipped_steps"] > 10
    assert last["loss_scale"] == 2.0 ** (127 - last["skipped_steps"])
    assert last["loss"] < 0.95 * records(tmp_path / "run")[0]["loss"]
    monkeypatch.setattr(precision, "INITIAL", 4.0)
    outcome = train(config(tmp_path, name="nan", task="optimizing:Nan", precision="fp16"))
    assert (outcome.state, outcome.step) == ("diverged", 3)
    monkeypatch.setattr(precision, "GROWTH_STEPS", 2)
    train(config(tmp_path, name="grown", precision="fp16", steps=6))
    assert [each["loss_scale"] for each in records(tmp_path / "grown")] == [4, 8, 8, 16, 16, 32]


@pytest.mark.parametrize(("native", "auto"), [(True, torch.bfloat16), (False, None)])
def test_auto_is_bf16_only_on_a_gpu_that_has_it(
    native: bool, auto: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    cuda = torch.device("cuda")
    assert compute_dtype("auto", cuda) is auto
    assert compute_dtype("fp16", cuda) is torch.float16
    if not native:
        with pytest.raises(UserError, match="precision is bf16, which Tesla T4 only emulates"):
            compute_dtype("bf16", cuda)
    assert compute_dtype("auto", torch.device("cpu")) is None
    assert compute_dtype("bf16", torch.device("cpu")) is torch.bfloat16


def test_another_type_can_be_set_over_a_config_and_code_of_ones_own_is_kept_with_the_run(tmp_path: Path) -> None:
    default = config(tmp_path)
    assert (default.optimizer.beta1, default.optimizer.weight_decay, default.optimizer.warmup_steps) == (0.9, 0.05, 20)
    other = as_config(default, TrainConfig, ["optimizer.type=sgd", "optimizer.schedule=one-cycle"])
    assert (other.optimizer.beta1, other.optimizer.weight_decay, other.optimizer.warmup_steps) == (None, 0.0, None)
    written = TrainConfig.model_validate(default.model_dump(mode="json"))  # as the record of a run has it
    assert as_config(written, TrainConfig, ["optimizer.type=sgd", "optimizer.schedule=one-cycle"]) == other
    assert TrainConfig.model_validate(other.model_dump(mode="json")) == other
    own = config(tmp_path, task="tabular-classification", optimizer=OWN)
    assert set(code.own_files(own.own_code)) == {"optimizing.py"}
    train(own)
    assert (tmp_path / "run/code/optimizing.py").is_file()
    with pytest.raises(UserError, match=r"optimizer.type: optimizing:Sign there, adamw now"):
        prepare(config(tmp_path, task="tabular-classification")).commit()


# What is refused, before anything is started


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"type": "adamx"}, "optimizer.type: 'adamx' is not an optimizer\n  fix: did you mean adam?"),
        ({"type": "sgd", "beta1": 0.9}, "beta1 is 0.9, which type sgd does not take\n  fix: remove it"),
        ({"schedule": "one-cycle", "warmup_steps": 3}, "warmup_steps is 3, which schedule one-cycle does not take"),
        ({"freeze_steps": 3}, "freeze_steps is 3, but freeze has no pattern"),
        (
            {"groups": [{"match": "head.*", "lr": 0.1}]},
            "a group has lr 0.1, but takes a factor of optimizer.lr\n  fix: write lr_scale",
        ),
    ],
)
def test_keys_that_do_not_fit_each_other_are_refused(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    data = {**PLAIN, "name": "run", "storage": str(tmp_path), "steps": 8}
    with pytest.raises(UserError) as refused:
        as_config({**data, "optimizer": keys}, TrainConfig)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"type": "sgd", "options": {"momentun": 0.9, "lr": 1}}, ["momentun is no option of sgd", "did you mean momentum?"]),
        ({"type": "sgd", "options": {"momentun": 0.9, "lr": 1}}, ["optimizer.options.lr is 1", "set optimizer.lr"]),
        ({"options": {"betas": [0.9, 0.9]}}, ["set optimizer.beta1 and optimizer.beta2"]),
        ({"type": "torch.optim:LBFGS"}, ["needs a closure"]),
        ({"type": "torch.optim:RMSpro"}, ["torch.optim has no RMSpro", "did you mean RMSprop?"]),
        ({"type": "optimizing:Net"}, ["is no torch.optim.Optimizer"]),
        (
            {"type": "torch.optim:Rprop", "weight_decay": 0.1},
            ["optimizer.weight_decay is set, but torch.optim:Rprop takes none"],
        ),
        ({"type": "optimizing:NoRate"}, ["whose constructor takes no lr"]),
        ({"schedule": "optimizing:stepping"}, ["returns another factor when it is called again for the same step"]),
        ({"schedule": "optimizing:late"}, ["returns None for step 99 of 100"]),
        ({"schedule": "optimizing:no_arguments"}, ["cannot be called as function(step, total, **schedule_options)"]),
        ({"schedule": "cosine", "schedule_options": {"decay_share": 1}}, ["optimizer.schedule_options.decay_share"]),
    ],
)
def test_an_optimizer_or_a_schedule_that_cannot_be_used_is_refused(
    tmp_path: Path, keys: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as refused:
        prepare(config(tmp_path, optimizer=keys))
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"type": "sgd", "options": {"nesterov": True}}, "cannot be created with options {'nesterov': True}: Nesterov"),
        ({"type": "torch.optim:SparseAdam"}, "SparseAdam does not support dense gradients"),
        ({"type": "optimizing:Hidden"}, "computes other steps when it is resumed from its saved state"),
        ({"type": "optimizing:Objects"}, "whose state has history, a list, which a checkpoint cannot hold"),
        ({"type": "optimizing:Broken"}, "call first_step"),
        ({"groups": [{"match": "haed.*"}, {"match": "*"}, {"match": "stem.*"}]}, "'haed.*' matches no parameter"),
        ({"groups": [{"match": "haed.*"}, {"match": "*"}, {"match": "stem.*"}]}, "did you mean head.*"),
        ({"groups": [{"match": "haed.*"}, {"match": "*"}, {"match": "stem.*"}]}, "all that 'stem.*' matches belongs to groups"),
        ({"freeze": ["*"]}, "leaves no parameter to train"),
        ({"freeze": ["head.*"], "type": "optimizing:Decays"}, "which changes parameters that have no gradient"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_by_the_try(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refused:
        preview(prepare(config(tmp_path, optimizer=keys)))
    assert words in str(refused.value)


def test_an_optimizer_with_kernels_for_gpus_only_is_left_to_the_workers_that_have_them(tmp_path: Path) -> None:
    optimizer = {"type": "optimizing:Kernels"}
    on_gpu = config(tmp_path, optimizer=optimizer, resources={"gpu": 1})
    plan = prepare(config(tmp_path, optimizer=optimizer, resources={"gpu": 0}))
    with pytest.raises(UserError, match="no CUDA kernel for this tensor"):
        preview(plan)
    (*_, note) = preview(replace(plan, config=on_gpu)).notes
    assert "its optimizer needs a GPU (no CUDA kernel for this tensor)" in note


def test_layer_decay_needs_layers(tmp_path: Path) -> None:
    flat = config(tmp_path, task="tabular-classification", model={"layers": 0}, optimizer={"layer_decay": 0.5})
    with pytest.raises(UserError, match="the model of task tabular-classification has no blocks"):
        preview(prepare(flat))
    check_options(flat.optimizer)
