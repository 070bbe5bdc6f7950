"""Each file of a run folder damaged in turn: recovered with a message, or refused with one; never trained on silently."""

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.plan import prepare
from heliostat.workloads.run import checkpoint, lease
from heliostat.workloads.run.attempts import Attempts
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop
from tests.conftest import Command
from tests.workloads.training.test_loop import config, losses

HARMS: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "flipped": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    "deleted": lambda data: None,
}


class PowerCut(Exception):
    pass


def drive(keys: TrainConfig, until: int | None = None) -> None:
    """What the driver and a worker do, up to a step at which the power is cut."""
    plan = prepare(keys)
    with lease.hold(plan.folder):
        record, finished = plan.commit()
        assert not finished
        loop = Loop(plan.folder, record, Ranks.of_this_process(), time.time())
        inner = loop._step

        def watched(batch: Any) -> None:
            if loop.progress.step == until:
                raise PowerCut
            inner(batch)

        loop._step = watched  # type: ignore[method-assign]
        loop.run()


def _killed_driver(keys: TrainConfig) -> None:
    """Leaves its lease behind."""
    plan = prepare(keys)
    Attempts(plan.folder).record("launched", launched=time.time())
    with lease.hold(plan.folder):
        os._exit(0)


def keys(storage: Path) -> TrainConfig:
    # Which checkpoint is the newest when the power is cut must not depend on the speed of the disk.
    return config(storage, steps=30, evaluate_every=8, model={"dropout": 0.2, "hidden": 16}, checkpoint_async=False)


def weights(folder: Folder) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = checkpoint.committed(folder)[-1].read()["model"]
    return model


def test_each_file_of_an_interrupted_run_in_turn(tmp_path: Path) -> None:
    """The weights and the losses at the end are those of a run that nothing happened to, or it does not train at all."""
    drive(keys(tmp_path / "calm"))
    calm = Folder.at(tmp_path / "calm" / "run")
    storage, kept = tmp_path / "storage", tmp_path / "kept"
    with pytest.raises(PowerCut):
        drive(keys(storage), until=23)
    process = multiprocessing.get_context("spawn").Process(target=_killed_driver, args=(keys(storage),))
    process.start()
    process.join()
    run = storage / "run"
    shutil.copytree(run, kept)
    files = sorted(str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file() and path.stat().st_size)
    newest = checkpoint.committed(Folder.at(kept))[-1].folder.name
    assert {"config.yaml", "metrics.jsonl", "events.jsonl", "attempts.jsonl", "lease.json"} < set(files)
    assert f"checkpoints/{newest}/state.pt" in files
    seen = {}
    for name in files:
        for harm, change in HARMS.items():
            shutil.rmtree(run)
            shutil.copytree(kept, run)
            data = change((run / name).read_bytes())
            (run / name).unlink()
            if data is not None:
                (run / name).write_bytes(data)
            try:
                drive(keys(storage))
            except UserError as error:
                seen[name, harm] = f"refused: {error.what}"
                continue
            output = [event["told"] for event in read_journal(Folder.at(run), EVENTS) if "told" in event]
            seen[name, harm] = f"reported: {output[0]}" if output else "continued as if nothing had happened"
            here = Folder.at(run)
            assert all(torch.equal(value, weights(calm)[key]) for key, value in weights(here).items()), (name, harm)
            after = {step: loss for step, loss in losses(here).items() if step > 20}
            assert after == {step: loss for step, loss in losses(calm).items() if step > 20}, (name, harm)
    print("\n".join(f"{name}, {harm}: {how}" for (name, harm), how in seen.items()))
    for harm in HARMS:
        assert seen[f"checkpoints/{newest}/state.pt", harm].startswith("reported:")
        assert seen[f"checkpoints/{newest}/manifest.json", harm].startswith("reported:")
        assert seen["metrics.jsonl", harm].startswith("reported:")
        assert seen["events.jsonl", harm].startswith("reported:")
    for harm in ("deleted", "truncated"):
        assert "config.yaml" in seen["config.yaml", harm]


def test_each_file_of_a_finished_run_in_turn(tmp_path: Path) -> None:
    """It is finished, or it is refused, or what was lost is computed again: the weights stay as they are."""
    plan = prepare(keys(tmp_path))
    drive(keys(tmp_path))
    run = tmp_path / "run"
    (run / "result.json").write_text('{"name": "run", "run": "run", "state": "finished", "step": 30, "epoch": 3}')
    before = weights(plan.folder)
    for path in [path for path in run.rglob("*") if path.is_file()]:
        for change in HARMS.values():
            whole = path.read_bytes()
            data = change(whole)
            path.unlink()
            if data is not None:
                path.write_bytes(data)
            with suppress(UserError):  # it is refused
                _, finished = plan.commit()
                assert finished or path.name == "result.json"
            path.write_bytes(whole)
    assert all(torch.equal(value, before[key]) for key, value in weights(plan.folder).items())


def test_the_command_reports_a_damaged_checkpoint_and_resumes_from_the_one_before(command: Command) -> None:
    (command.cwd / "c.yaml").write_text(
        "task: tabular-classification\ndataset: {source: breast-cancer}\nglobal_batch: 32\nsteps: 20\n"
        "evaluate_every: 100\ncheckpoint_every: 8\nkeep: {last: 2, best: 0}\n"
    )
    assert command("train", "c.yaml").code == 0
    run = command.cwd / "runs/c"
    state = run / "checkpoints/step-00000020/state.pt"
    before = losses(Folder.at(run))
    state.write_bytes(HARMS["flipped"](state.read_bytes()) or b"")
    (run / "result.json").unlink()
    done = command("train", "c.yaml")
    assert done.code == 0, done.err
    assert "step-00000020 is damaged: state.pt does not match its checksum; it is skipped" in done.err
    starts = [event["step"] for event in read_journal(Folder.at(run), EVENTS) if event["event"] == "start"]
    assert starts == [0, 16]
    assert losses(Folder.at(run)) == before
