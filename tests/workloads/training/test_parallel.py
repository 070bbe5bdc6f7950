"""FSDP, recomputation and compilation: the same curve as one worker alone, and checkpoints that open at any world size."""

import math
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.inference import evaluate, load_run
from heliostat.workloads.plan import prepare
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS, METRICS, RunRecord
from heliostat.workloads.tasks import language_model
from heliostat.workloads.training import parallel
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop
from heliostat.workloads.training.progress import Outcome
from tests.workloads.group import in_group


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short samples for the report."""
    monkeypatch.setattr(language_model, "SAMPLE_TOKENS", 4)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short texts."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"{number} " + "the sun is bright and the mirrors turn. " * 8)
    return folder


def config(storage: Path, texts: Path, **changes: Any) -> TrainConfig:
    """A small transformer; the vocabulary and the width do not divide by three."""
    keys = {
        "task": "language-model", "model": {"width": 32, "layers": 2, "heads": 2, "dropout": 0.1},
        "dataset": {"source": "text", "options": {"path": str(texts), "length": 32}}, "name": "run", "storage": str(storage),
        "global_batch": 24, "steps": 12, "log_every": 1, "evaluate_every": 6, "checkpoint_every": 4,
        "optimizer": {"lr": 0.01, "warmup_steps": 2}, **changes,
    }  # fmt: skip
    return TrainConfig.model_validate(keys)


def record_of(config: TrainConfig) -> tuple[Folder, RunRecord]:
    plan = prepare(config)
    return plan.folder, plan.commit()[0]


def train(config: TrainConfig) -> Outcome:
    folder, record = record_of(config)
    return Loop(folder, record, Ranks.of_this_process(), time.time()).run()


def _worker(rank: int, jobs: list[tuple[str, dict[str, Any], int]]) -> None:
    language_model.SAMPLE_TOKENS = 4
    for run, record, crash in jobs:
        loop = Loop(Folder.at(run), RunRecord.model_validate(record), Ranks.of_this_process(), time.time())
        try:
            if crash:
                _crash_after(loop, crash)
            loop.run()
        except PowerCut:
            pass


class PowerCut(Exception):
    pass


def _crash_after(loop: Loop, steps: int) -> None:
    """Let the loop fail on all workers after so many steps of this attempt."""
    step, last = loop._step, loop.progress.step + steps

    def failing(batch: Any) -> None:
        if loop.progress.step >= last:
            raise PowerCut
        step(batch)

    loop._step = failing  # type: ignore[method-assign]


def train_with(workers: int, *runs: tuple[TrainConfig, int]) -> None:
    """Train each config with several processes, which crash after some steps unless that is 0."""
    claimed = [(*record_of(config), crash) for config, crash in runs]
    jobs = [(str(folder), record.model_dump(mode="json"), crash) for folder, record, crash in claimed]
    in_group(_worker, workers, jobs)


def losses(folder: Folder) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in read_journal(folder, METRICS) if r["kind"] == "train"}


def test_a_sharded_run_has_the_curve_of_one_worker_and_resumes_at_any_world_size(tmp_path: Path, texts: Path) -> None:
    """2 workers crash after 6 steps, 3 resume, 1 finishes: equal to float tolerance, as sums have another order."""
    plain: dict[str, Any] = {"model": {"width": 32, "layers": 2, "heads": 2}}
    train(config(tmp_path / "alone", texts, **plain))
    curve = losses(Folder.at(tmp_path / "alone" / "run"))
    assert curve[12] < 0.9 * curve[1]
    storage, sharded = tmp_path / "sharded", {**plain, "parallelism": "fsdp"}
    train_with(2, (config(storage, texts, workers=2, micro_batch=4, **sharded), 6))
    folder = Folder.at(storage / "run")
    assert [c.step for c in checkpoint.committed(folder)] == [4, 6], "the last before the crash, and the best measured"
    assert set(checkpoint.committed(folder)[-1].files) == {"state-0-of-2.pt", "state-1-of-2.pt"}
    measured = next(r for r in read_journal(folder, METRICS) if r["kind"] == "eval")["metrics"]["loss"]
    assert evaluate(folder, "validation")["metrics"]["loss"] == pytest.approx(measured, rel=1e-4)
    train_with(3, (config(storage, texts, workers=[3, 3], micro_batch=5, **sharded), 4))
    assert set(checkpoint.committed(folder)[-1].files) == {f"state-{rank}-of-3.pt" for rank in range(3)}
    assert train(config(storage, texts, **plain)).state == "finished"
    assert losses(folder) == pytest.approx(curve, rel=1e-3)
    starts = [event["step"] for event in read_journal(folder, EVENTS) if event["event"] == "start"]
    assert starts == [0, 6, 8]


def test_after_a_crash_a_sharded_run_has_the_same_losses_to_the_last_bit(tmp_path: Path, texts: Path) -> None:
    """With dropout, recomputed activations and accumulation, at the same number of workers; from whole and sharded files."""
    keys: dict[str, Any] = {"workers": 2, "micro_batch": 6, "activation_checkpointing": True, "steps": 9}
    whole = config(tmp_path / "whole", texts, **keys)
    calm, stormy, sharded = (config(tmp_path / name, texts, **keys, parallelism="fsdp") for name in ("calm", "stormy", "whole"))
    train_with(2, (calm, 0), (stormy, 5), (stormy, 0), (whole, 5), (sharded, 0))
    folders = {name: Folder.at(tmp_path / name / "run") for name in ("calm", "stormy", "whole")}
    assert [e["step"] for e in read_journal(folders["stormy"], EVENTS) if e["event"] == "start"] == [0, 4]
    assert losses(folders["stormy"]) == losses(folders["calm"])
    assert losses(folders["whole"]) == pytest.approx(losses(folders["calm"]), rel=1e-3)
    calm_model, stormy_model = (load_run(folders[name]).model.state_dict() for name in ("calm", "stormy"))
    assert all(torch.equal(calm_model[name], stormy_model[name]) for name in calm_model)


@pytest.mark.parametrize("rows", [1, 2, 7, 33])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_rows_are_cut_as_fsdp_cuts_them(rows: int, world: int) -> None:
    parts = [part.tolist() for part in torch.arange(rows).chunk(world)]
    cut = [list(range(*checkpoint.share(rows, rank, world))) for rank in range(world)]
    assert [part for part in cut if part] == parts


def test_recomputed_activations_change_nothing_but_the_memory(tmp_path: Path, texts: Path) -> None:
    curves = []
    for name, on in (("kept", False), ("recomputed", True)):
        train(config(tmp_path / name, texts, activation_checkpointing=on))
        curves.append(losses(Folder.at(tmp_path / name / "run")))
    assert curves[0] == curves[1]
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(8)))
    blocks = list(model)
    kept = _saved_bytes(model)
    parallel._recompute(blocks, "some")
    assert _saved_bytes(model) < kept / 2


def _saved_bytes(model: nn.Module) -> int:
    """The bytes that a forward pass keeps for the backward pass."""
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.nbytes) or t, lambda t: t):  # type: ignore[func-returns-value]
        model(torch.ones(32, 64)).sum()
    return sum(seen)


def test_a_model_without_blocks_has_nothing_to_recompute(tmp_path: Path) -> None:
    keys = {"name": "run", "storage": str(tmp_path), "task": "tabular-classification", "model": {"layers": 0}, "steps": 2}
    data = {"dataset": {"source": "breast-cancer"}, "global_batch": 8, "activation_checkpointing": True}
    with pytest.raises(UserError, match="activation_checkpointing is true, but the model of task tabular-classification"):
        train(TrainConfig.model_validate({**keys, **data}))


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.accept)])
def test_a_compiled_run_has_the_curve_of_the_plain_one_and_resumes_plain(
    tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """To float tolerance: a compiler may sum in another order. That of C++ takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    keys: dict[str, Any] = {"model": {"width": 32, "layers": 1, "heads": 2}, "steps": 6, "evaluate_every": 6}
    train(config(tmp_path / "plain", texts, **keys))
    train(config(tmp_path / "compiled", texts, **keys, compile=True))
    plain, compiled = (losses(Folder.at(tmp_path / name / "run")) for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=1e-3)
    assert math.isfinite(evaluate(Folder.at(tmp_path / "compiled" / "run"))["metrics"]["loss"])


def test_each_block_of_a_compiled_model_stays_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a perceptron differ in their widths, but share a class, and so torch's limit of recompilations."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    for key in ("recompile_limit", "fail_on_recompile_limit_hit"):
        monkeypatch.setattr(torch._dynamo.config, key, getattr(torch._dynamo.config, key))
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    blocks = [nn.Sequential(nn.Linear(width, width + 1), nn.Dropout(0.1)) for width in range(3, 6)]
    parallel._compile(blocks)
    for training, size in ((True, 8), (True, 5), (False, 8), (False, 3), (False, 1), (True, 8)):
        x = torch.ones(size, 3)
        with nullcontext() if training else torch.no_grad():
            for block in blocks:
                x = block.train(training)(x)
    assert x.shape == (8, 6)


def test_without_a_compiler_compile_is_refused(tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"compile is true, but this machine has none of c\+\+, g\+\+, clang\+\+"):
        train(config(tmp_path, texts, compile=True))
