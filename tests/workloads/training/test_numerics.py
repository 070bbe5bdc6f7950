"""Nothing is silently wrong: a run that diverges saves nothing of it, and all workers have the same batch norm and buffers."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.inference import evaluate
from heliostat.workloads.plan import prepare
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS, METRICS, RunRecord
from heliostat.workloads.training.buffers import Buffers
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop
from heliostat.workloads.training.optimizer import check_gradients, gradient_norm
from tests.workloads.group import in_group
from tests.workloads.torchrun.scripts import importable
from tests.workloads.training.test_loop import config, losses, record_of, train

TASKS = """
import torch
import torch.distributed as dist
from torch import nn
from heliostat.workloads.tasks import tabular_classification

def rank():
    return dist.get_rank() if dist.is_initialized() else 0

class TabularClassification(tabular_classification.TabularClassification):
    "A sequence of layers, from which the tasks below make others."
    def model(self):
        return tabular_classification.older(self.options, self.index, 2)
    def _logits(self, model, batch):
        return model(batch["features"])[:, None]

class NanGradient(TabularClassification):
    "From the seventh micro-batch of the last rank on, the derivative of a root at 0."
    calls = 0
    def loss(self, model, batch):
        loss = super().loss(model, batch)
        if model.training:
            type(self).calls += 1
            if self.calls >= 7 and (not dist.is_initialized() or rank() == dist.get_world_size() - 1):
                loss = loss + (0 * next(model.parameters()).sum()).abs().sqrt()
        return loss

class NanBuffer(TabularClassification):
    "A mask that is infinite by intent, and a buffer that becomes NaN after step 6."
    def model(self):
        model = super().model()
        model.register_buffer("mask", torch.full((3,), -torch.inf))
        model.register_buffer("seen", torch.zeros(2))
        return model
    def loss(self, model, batch):
        model.seen[0] += model.training
        model.seen[1] = torch.nan if model.seen[0] > 6 else 0.0
        return super().loss(model, batch)

class Mask(TabularClassification):
    "A mask that the first forward pass fills."
    def model(self):
        model = super().model()
        model.register_buffer("mask", torch.zeros(3))
        return model
    def loss(self, model, batch):
        model.mask.fill_(-torch.inf)
        return super().loss(model, batch)

class Wide(TabularClassification):
    "float64 in a parameter and a buffer, and a complex buffer."
    def model(self):
        first, *others = super().model()
        model = nn.Sequential(first, *others)
        model.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        model.register_buffer("total", torch.full((), 1e200, dtype=torch.float64))
        model.register_buffer("phase", torch.ones(2, dtype=torch.complex128))
        return model
    def loss(self, model, batch):
        return super().loss(model, batch) * model.scale

class Double(TabularClassification):
    "All in float64."
    def model(self):
        return super().model().double()
    def loss(self, model, batch):
        return super().loss(model, {**batch, "features": batch["features"].double()})

class Huge(TabularClassification):
    "A finite gradient whose square is not."
    def loss(self, model, batch):
        return super().loss(model, batch) * 1e25

class Normed(TabularClassification):
    def model(self):
        first, *others = super().model()
        model = nn.Sequential(first, *others[:1], nn.BatchNorm1d(self.options.hidden), *others[1:])
        model.register_buffer("counter", torch.tensor(0))
        return model
    def blocks(self, model):
        return [model[2]]
    def loss(self, model, batch):
        getattr(model, "module", model).counter.add_(1 + rank())
        return super().loss(model, batch)

def penalized(self, model, batch):
    features = batch["features"].clone().requires_grad_()
    loss = TabularClassification.loss(self, model, {**batch, "features": features})
    (slope,) = torch.autograd.grad(loss, features, create_graph=True)
    return loss + slope.square().sum()

class Penalty(Normed):
    loss = penalized

class Pictures(TabularClassification):
    "Batch norm over several positions, for which one sample is enough."
    def model(self):
        first, *others = super().model()
        return nn.Sequential(first, nn.Unflatten(1, (2, 15)), nn.BatchNorm1d(2), nn.Flatten(), *others)

class PicturePenalty(Pictures):
    "Penalizes the gradient with respect to the input."
    loss = penalized
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tasks above, for this process and those that it starts."""
    with importable(tmp_path_factory.mktemp("tasks"), "numeric", TASKS):
        yield


pytestmark = pytest.mark.usefixtures("tasks")


def numeric(tmp_path: Path, task: str, **changes: Any) -> TrainConfig:
    return config(tmp_path, task=f"numeric:{task}", **changes)


# A run that diverges


@pytest.mark.parametrize("clip", [1.0, None])
def test_a_nan_gradient_with_a_finite_loss_ends_the_run_and_is_in_no_checkpoint(tmp_path: Path, clip: float | None) -> None:
    import numeric as module  # type: ignore[import-not-found]

    for calls in (0, 5):  # the same command diverges at the same step again
        module.NanGradient.calls = calls
        outcome = train(numeric(tmp_path, "NanGradient", optimizer={"clip_norm": clip}, log_every=4))
        assert (outcome.state, outcome.step) == ("diverged", 7)
        assert outcome.message.startswith("the gradient became NaN or infinite at step 7, with a finite loss")
        assert outcome.message.endswith("the last good checkpoint is step 5")
        newest = checkpoint.committed(Folder.at(tmp_path / "run"))[-1]
        assert newest.step == 5
        assert checkpoint.not_finite(newest.read()) == []


def test_the_update_of_a_step_with_a_nan_gradient_is_left_out(tmp_path: Path) -> None:
    """So that the steps until the workers sync compute with finite weights."""
    import numeric as module

    module.NanGradient.calls = 6
    folder, record = record_of(numeric(tmp_path, "NanGradient"))
    loop = Loop(folder, record, Ranks.of_this_process(), time.time())
    before = {name: values.clone() for name, values in loop.model.state_dict().items()}
    assert loop.run().message.endswith("there is no checkpoint yet")
    assert all(torch.equal(values, before[name]) for name, values in loop.model.state_dict().items())


def test_a_buffer_that_becomes_nan_is_not_saved_and_one_that_is_infinite_by_intent_is(tmp_path: Path) -> None:
    outcome = train(numeric(tmp_path, "NanBuffer"))
    assert outcome.message == "the model's seen became NaN or infinite at step 7; the last good checkpoint is step 5"
    state = checkpoint.committed(Folder.at(tmp_path / "run"))[-1].read(infinite=["model/mask"])
    assert state["model"]["mask"].isinf().all()


def test_a_buffer_that_becomes_infinite_is_saved_and_used_and_one_that_is_nan_is_named(tmp_path: Path) -> None:
    assert train(numeric(tmp_path, "Mask", steps=2)).state == "finished"
    folder = Folder.at(tmp_path / "run")
    assert evaluate(folder, "validation")["step"] == 2
    saved = checkpoint.committed(folder)[-1]
    state = saved.read(buffers=["mask"])
    state["model"]["mask"][0] = torch.nan
    assert checkpoint.not_finite(state, buffers=["mask"]) == ["model/mask"]
    with pytest.raises(checkpoint.Damaged, match=r"is damaged: model/mask is NaN or infinite$"):
        saved.read()


@pytest.mark.parametrize("task", ["Wide", "Double"])
def test_a_model_with_float64_and_complex_tensors_is_trained_and_saved(tmp_path: Path, task: str) -> None:
    assert train(numeric(tmp_path, task, steps=2)).state == "finished"
    assert evaluate(Folder.at(tmp_path / "run"), "validation")["step"] == 2


def test_a_tensor_of_any_dtype_that_is_not_finite_is_found() -> None:
    dtypes = [torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
    fine = {str(dtype): torch.ones(3).to(dtype) for dtype in [*dtypes, torch.int64]}
    bad = {f"{dtype} nan": torch.tensor([1.0, torch.nan]).to(dtype) for dtype in dtypes}
    found = checkpoint.not_finite({"model": {**fine, **bad, "empty": torch.zeros(0)}, "optimizer": {}})
    assert sorted(found) == sorted(f"model/{name}" for name in bad)


def test_a_gradient_whose_norm_overflows_float32_squares_is_clipped(tmp_path: Path) -> None:
    outcome = train(numeric(tmp_path, "Huge", optimizer={"lr": 0.01}))
    assert outcome.state == "finished"
    curve = losses(Folder.at(tmp_path / "run"))
    assert curve[20] < 0.8 * curve[1]


@pytest.mark.parametrize(
    ("values", "norm"),
    [([3.0, 4.0], 5.0), ([3e30, 4e30], 5e30), ([1e-30], 0.0), ([torch.nan, 1.0], torch.nan), ([torch.inf], torch.inf)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_norm(values: list[float], norm: float, dtype: torch.dtype) -> None:
    used, unused = nn.Parameter(torch.zeros(len(values), dtype=dtype)), nn.Parameter(torch.zeros(2))
    used.grad = torch.tensor(values, dtype=dtype)
    assert float(gradient_norm([used, unused])) == pytest.approx(norm, rel=0.01, abs=1e-29, nan_ok=True)
    double = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    double.grad = torch.tensor([1e-3], dtype=torch.float64)
    assert float(gradient_norm([used, double])) == pytest.approx(norm or 1e-3, rel=0.01, nan_ok=True), "a mix"
    half = nn.Parameter(torch.zeros(10_000, dtype=torch.float16))
    half.grad = torch.full_like(half, 1000)
    assert float(gradient_norm([half])) == pytest.approx(100_000, rel=1e-4), "more than float16 has"


def test_sparse_gradients_are_refused_before_the_first_step() -> None:
    model = nn.Sequential(nn.Embedding(4, 2, sparse=True), nn.Embedding(4, 2))
    with pytest.raises(UserError, match="sparse gradients cannot be used, and 0 has them"):
        check_gradients(model)


# Batches of one sample


def run_of(tmp_path: Path, task: str, **changes: Any) -> Loop:
    folder, record = record_of(numeric(tmp_path, task, **changes))
    return Loop(folder, record, Ranks.of_this_process(), time.time())


@pytest.mark.parametrize(
    ("changes", "words", "fix"),
    [
        ({"global_batch": 24}, ["the last batch of an epoch, of 1 (workers 1, micro-batches of 24)"], "set drop_last to true"),
        ({"micro_batch": 1}, ["a batch of 48 (workers 1, micro-batches of 1)"], "set micro_batch to null"),
        ({"global_batch": 45, "micro_batch": 3}, ["the last batch of an epoch, of 4 (workers 1"], "set drop_last to true"),
        ({"global_batch": 17, "lanes": 17, "workers": [1, 9]}, ["of 17 (workers 9", "of 1 (workers 1,"], "use fewer workers"),
        (
            {"global_batch": 17, "lanes": 17, "workers": [1, 9]},
            [],
            "larger global_batch, or set sync_batchnorm to true, and set",
        ),
        ({"global_batch": 24, "workers": 2, "sync_batchnorm": True}, ["of 1 (workers 1"], "set drop_last to true"),
    ],
)
def test_a_single_sample_for_batch_norm_is_refused_before_the_first_step(
    tmp_path: Path, changes: dict[str, Any], words: list[str], fix: str
) -> None:
    with pytest.raises(UserError) as refused:
        run_of(tmp_path, "Normed", steps=30, **changes)
    assert all(word in refused.value.what for word in words)
    assert fix in refused.value.fix


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("Normed", {"global_batch": 24, "drop_last": True}),
        ("Normed", {"global_batch": 24, "steps": 17}),
        ("Pictures", {"global_batch": 24, "micro_batch": 1}),
        ("NanGradient", {"micro_batch": 1}),
    ],
)
def test_a_single_sample_is_fine_where_it_does_not_occur_or_is_enough(
    tmp_path: Path, task: str, changes: dict[str, Any]
) -> None:
    loop = run_of(tmp_path, task, **{"steps": 30, **changes})
    assert all(int(values) == 0 for name, values in loop.model.named_buffers() if "num_batches" in name)


def test_a_loss_that_needs_gradients_is_tried_on_a_single_sample_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"of 1 .workers 1, micro-batches of 24"):
        run_of(tmp_path, "Penalty", steps=30, global_batch=24)
    loop = run_of(tmp_path / "other", "PicturePenalty", steps=30, global_batch=24, micro_batch=1)
    assert all(parameter.grad is None for parameter in loop.model.parameters())


def test_a_refused_run_leaves_its_name_to_a_better_config(tmp_path: Path) -> None:
    plan = prepare(numeric(tmp_path, "Normed", global_batch=24))
    with pytest.raises(UserError, match="no"), plan.claim():
        raise UserError("no", "change it")
    with prepare(numeric(tmp_path, "Normed", global_batch=32)).claim() as (_, record, _):
        assert record.config.global_batch == 32


# Two workers


class Activated(nn.BatchNorm1d):
    """With an activation, as other libraries have it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def _worker(rank: int, jobs: list[tuple[str, dict[str, Any]]]) -> None:
    ranks = Ranks.of_this_process()
    _pools(ranks)
    _synchronizes(ranks)
    for run, record in jobs:
        outcome = Loop(Folder.at(run), RunRecord.model_validate(record), ranks, time.time()).run()
        Path(run, f"outcome-{rank}").write_text(f"{outcome.state} {outcome.step}")


def _pools(ranks: Ranks) -> None:
    """Of 30 and of 10 samples, of two distributions: the statistics of the mixture; and equal ones stay as they are."""
    norm = nn.BatchNorm1d(2)
    buffers = Buffers(norm, ranks, synchronize=False)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.running_mean.copy_(torch.tensor([[1.0, 0.1], [5.0, 0.1]][ranks.rank]))
    norm.running_var.copy_(torch.tensor([[2.0, 0.3], [6.0, 0.3]][ranks.rank]))
    norm.num_batches_tracked.fill_(3 + ranks.rank)
    buffers.samples = [30, 10][ranks.rank]
    buffers.pool()
    assert norm.running_mean.tolist() == [2.0, pytest.approx(0.1)]
    assert norm.running_var.tolist() == [6.0, pytest.approx(0.3)]  # (30 * 2 + 10 * 6) / 40 + (30 * 1 + 10 * 9) / 40
    assert int(norm.num_batches_tracked) == 4
    before = norm.running_mean.clone(), norm.running_var.clone()
    buffers.samples = [1, 2][ranks.rank]
    buffers.pool()
    assert torch.equal(before[0], norm.running_mean)
    assert torch.equal(before[1], norm.running_var)


def _synchronizes(ranks: Ranks) -> None:
    """As one worker with all samples, forward, backward and in the statistics; what rank 1 pads with does not count."""
    samples = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(0))
    weight = torch.linspace(0, 1, 4)
    for padded in (False, True):
        whole, mine = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        buffers = Buffers(mine, ranks, synchronize=True)
        parts = samples[:5], samples[:2] if padded else samples[5:]
        part = parts[ranks.rank].clone().requires_grad_()
        together = (samples[:5] if padded else samples).clone().requires_grad_()
        expected = whole(together)
        (expected.square() * weight).sum().backward()
        if padded and ranks.rank == 1:
            with buffers.padding():
                (mine(part) * 0.0).sum().backward()
        else:
            output = mine(part)
            assert torch.allclose(output, expected[5 * ranks.rank :][: len(part)], atol=1e-6)
            (output.square() * weight).sum().backward()
            assert part.grad is not None
            assert together.grad is not None
            assert torch.allclose(part.grad, together.grad[5 * ranks.rank :][: len(part)], atol=1e-5)
        if not padded or ranks.rank == 0:
            for name, values in whole.named_buffers():
                assert torch.allclose(mine.get_buffer(name), values), name


@pytest.fixture(scope="module")
def storage(tasks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two workers, each in a storage of its name."""
    storage = tmp_path_factory.mktemp("runs")
    normed = {"workers": 2, "evaluate_every": 10}
    configs = [
        numeric(storage / "nan-ddp", "NanGradient", workers=2, micro_batch=12),
        numeric(storage / "nan-fsdp", "NanGradient", workers=2, parallelism="fsdp"),
        numeric(storage / "ddp", "Normed", **normed),
        numeric(storage / "fsdp", "Normed", **normed, parallelism="fsdp"),
        numeric(storage / "sync", "Normed", **normed, sync_batchnorm=True),
    ]
    runs = [record_of(config) for config in configs]
    in_group(_worker, 2, [(str(folder), record.model_dump(mode="json")) for folder, record in runs])
    return storage


@pytest.mark.parametrize(("parallelism", "step"), [("ddp", 4), ("fsdp", 1)])
def test_a_nan_gradient_of_one_worker_ends_all_at_the_same_step(storage: Path, parallelism: str, step: int) -> None:
    """With two micro-batches a step, the seventh is in step 4; the second run, in the same processes, counts on from there."""
    run = storage / f"nan-{parallelism}" / "run"
    assert {(run / f"outcome-{rank}").read_text() for rank in (0, 1)} == {f"diverged {step}"}
    assert [e["what"] for e in read_journal(Folder.at(run), EVENTS) if e["event"] == "diverged"] == ["the gradient"]
    assert checkpoint.committed(Folder.at(run)) == []


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp", "sync"])
def test_all_workers_evaluate_with_the_statistics_and_buffers_of_the_checkpoint(storage: Path, parallelism: str) -> None:
    folder = Folder.at(storage / parallelism / "run")
    measured = next(r["metrics"] for r in reversed(read_journal(folder, METRICS)) if r["kind"] == "eval")
    newest = checkpoint.committed(folder)[-1]
    assert evaluate(folder, "validation")["metrics"]["loss"] == pytest.approx(
        min(r["metrics"]["loss"] for r in read_journal(folder, METRICS) if r["kind"] == "eval"), rel=1e-5
    )
    assert measured == pytest.approx(newest.metrics)
    one, other = (newest.read(rank, 2)["model"] for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one if "running" in name or name in ("counter",))
    assert int(one["counter"]) == 20, "rank 0 has counted its steps"
    assert int(one["2.num_batches_tracked"]) == 20


def test_synchronized_batch_norm_has_the_curve_of_one_worker(storage: Path, tmp_path: Path) -> None:
    train(numeric(tmp_path, "Normed", evaluate_every=10))
    alone, two = Folder.at(tmp_path / "run"), Folder.at(storage / "sync" / "run")
    assert losses(two) == pytest.approx(losses(alone), rel=1e-3)
    assert losses(Folder.at(storage / "ddp" / "run")) != pytest.approx(losses(alone), rel=1e-3)
    one, other = (checkpoint.committed(folder)[-1].read()["model"] for folder in (alone, two))
    assert torch.allclose(one["2.running_var"], other["2.running_var"], rtol=1e-3)


def test_recomputed_activations_update_running_statistics_once(tmp_path: Path) -> None:
    """In training; the checkpoints' statistics are those of a run without."""
    states = []
    for on in (False, True):
        train(numeric(tmp_path / str(on), "Normed", activation_checkpointing=on, steps=5))
        states.append(checkpoint.committed(Folder.at(tmp_path / str(on) / "run"))[-1].read()["model"])
    assert all(torch.equal(values, states[1][name]) for name, values in states[0].items() if name != "counter")


@pytest.mark.parametrize(
    ("layer", "words"),
    [(nn.BatchNorm1d, None), (nn.LayerNorm, "the model has no batch norm"), (Activated, r"of its own .*: 0 \(Activated\)")],
)
def test_what_cannot_be_synchronized_is_refused(layer: type[nn.Module], words: str | None) -> None:
    with pytest.raises(UserError, match=words) if words else nullcontext():
        Buffers(nn.Sequential(layer(2)), Ranks.of_this_process(), synchronize=True)


def test_padding_leaves_no_trace_in_buffers() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)
            self.register_buffer("last", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            self.last = x[0].clone()
            output: Tensor = self.norm(x)
            return output

    model = Counts()
    buffers = Buffers(model, Ranks.of_this_process(), synchronize=False)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    with buffers.padding():
        model(torch.randn(4, 2)).sum().backward()
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    model(torch.randn(4, 2))
    assert model.norm.running_mean is not None
    assert model.norm.running_mean.abs().sum() > 0
