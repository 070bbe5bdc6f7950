"""Checkpoints: written in the background, kept by number and by metric, retried, and never truncated."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import fs

from heliostat.errors import NotWritable, UserError
from heliostat.folder import Folder
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.inference import evaluate, load_run
from heliostat.workloads.plan import prepare
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.checkpoint import Damaged
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS, METRICS, RESULT, Result, RunRecord
from heliostat.workloads.training import checkpointer
from heliostat.workloads.training import loop as loop_module
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop
from tests.conftest import wait_for
from tests.store import Store
from tests.workloads.group import in_group
from tests.workloads.training.test_loop import config, losses, record_of, train


def loop_of(config: TrainConfig) -> Loop:
    folder, record = record_of(config)
    return Loop(folder, record, Ranks.of_this_process(), time.time())


def events(folder: Folder, name: str) -> list[dict[str, Any]]:
    return [event for event in read_journal(folder, EVENTS) if event["event"] == name]


def steps(folder: Folder) -> list[int]:
    return [c.step for c in checkpoint.committed(folder)]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Files of checkpoints are written only while this is set."""
    opened = threading.Event()
    write = checkpoint.write_state

    def gated(folder: Folder, name: str, state: checkpoint.State) -> checkpoint.File:
        assert opened.wait(300)
        return write(folder, name, state)

    monkeypatch.setattr(checkpoint, "write_state", gated)
    yield opened
    opened.set()


def test_training_continues_while_a_checkpoint_is_written_and_it_has_the_state_of_its_step(
    tmp_path: Path, gate: threading.Event
) -> None:
    """The writer is blocked until step 9; the checkpoint of step 5 must still be that of step 5."""
    calm = config(tmp_path / "calm", evaluate_every=100, keep={"last": 9})
    gate.set()
    train(calm)
    gate.clear()
    loop = loop_of(config(tmp_path / "slow", evaluate_every=100, keep={"last": 9}))
    opens_at(loop, 9, gate)
    loop.run()
    there, here = (checkpoint.committed(Folder.at(tmp_path / name / "run")) for name in ("calm", "slow"))
    assert [c.step for c in here] == [5, 10, 15, 20]
    for one, other in zip(there, here, strict=True):
        one_state, other_state = one.read(), other.read()
        for section in checkpoint.SECTIONS:
            assert all(torch.equal(tensor, other_state[section][name]) for name, tensor in one_state[section].items())


def opens_at(loop: Loop, step: int, gate: threading.Event) -> None:
    inner = loop._step

    def watched(batch: Any) -> None:
        inner(batch)
        if loop.progress.step == step:
            assert steps(loop.folder) == [], "nothing is committed before it is written"
            gate.set()

    loop._step = watched  # type: ignore[method-assign]


def test_without_async_all_workers_block_until_it_is_written(tmp_path: Path) -> None:
    loop = loop_of(config(tmp_path, checkpoint_async=False, evaluate_every=100))
    inner = loop._step

    def watched(batch: Any) -> None:
        if loop.progress.step == 5:
            assert steps(loop.folder) == [5]
        inner(batch)

    loop._step = watched  # type: ignore[method-assign]
    loop.run()


def test_an_error_of_the_writer_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> checkpoint.File:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(checkpoint, "write_state", broken)
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        train(config(tmp_path))


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    keys = {"steps": 60, "optimizer": {"lr": 0.05, "weight_decay": 0.0}, "evaluate_every": 3, "checkpoint_every": 3}
    train(config(tmp_path, **keys, keep={"last": 3, "best": 2}))
    folder = Folder.at(tmp_path / "run")
    measured = {r["step"]: r["metrics"]["loss"] for r in read_journal(folder, METRICS) if r["kind"] == "eval"}
    best = sorted(measured, key=lambda step: measured[step])[:2]
    assert steps(folder) == sorted({54, 57, 60, *best})


def test_checkpoints_are_also_saved_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by a second a step, and workers that sync every third step."""
    keys = {"checkpoint_every": 1000, "evaluate_every": 1000, "checkpoint_seconds": 6, "keep": {"last": 99}, "log_every": 3}
    loop = loop_of(config(tmp_path, **keys))

    class Clock:
        sleep = staticmethod(time.sleep)
        perf_counter = staticmethod(time.perf_counter)

        @staticmethod
        def monotonic() -> float:
            return float(loop.progress.step)

    loop.checkpointer._since = 0.0
    monkeypatch.setattr(checkpointer, "time", Clock)
    monkeypatch.setattr(loop_module, "SYNC_SECONDS", 1e9)
    loop.run()
    assert steps(loop.folder) == [6, 12, 18, 20]


HARMS = ["truncated", "flipped", "deleted", "no manifest", "manifest flipped", "manifest truncated", "not finite"]


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(tmp_path: Path, harm: str) -> None:
    train(config(tmp_path / "calm", steps=24))
    train(config(tmp_path, steps=24, keep={"last": 2, "best": 0}))
    folder = Folder.at(tmp_path / "run")
    before, last = steps(folder)
    damage(Path(str(folder)) / f"checkpoints/step-{last:08d}", harm)
    assert train(config(tmp_path, steps=24, keep={"last": 2, "best": 0})).state == "finished"
    (skipped,) = events(folder, "checkpoint_skipped")
    assert skipped["step"] == last
    assert f"step-{last:08d} is damaged" in skipped["told"]
    assert events(folder, "start")[-1]["step"] == before
    assert losses(folder) == losses(Folder.at(tmp_path / "calm" / "run"))
    assert steps(folder)[-1] == 24


@pytest.mark.parametrize("harm", ["flipped", "no manifest", "not finite"])
def test_if_no_checkpoint_is_intact_the_run_is_refused_and_not_restarted_from_step_0(tmp_path: Path, harm: str) -> None:
    train(config(tmp_path, steps=10))
    folder = Folder.at(tmp_path / "run")
    for step in steps(folder):
        damage(Path(str(folder)) / f"checkpoints/step-{step:08d}", harm)
    with pytest.raises(UserError, match=r"no checkpoint of run .*run can be used:\n.*step-00000010 is damaged") as refused:
        train(config(tmp_path, steps=10))
    assert "start a new run under another name" in refused.value.fix


def damage(place: Path, harm: str) -> None:
    file = place / ("manifest.json" if "manifest" in harm else "state.pt")
    data = file.read_bytes()
    if harm == "not finite":  # as version 0.1 saved it after the gradient had become NaN
        step, folder, state = int(place.name[5:]), Folder.at(place), torch.load(file, weights_only=True)
        state["model"]["head.weight"].view(-1)[3] = torch.nan
        checkpoint.commit(folder, step, {}, {file.name: checkpoint.write_state(folder, file.name, state)})
    elif "flipped" in harm:
        file.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    elif "truncated" in harm:
        file.write_bytes(data[: len(data) // 2])
    else:
        file.unlink()


def test_a_checkpoint_that_is_used_by_hand_is_never_read_when_damaged(tmp_path: Path) -> None:
    train(config(tmp_path, steps=10))
    last = checkpoint.committed(Folder.at(tmp_path / "run"))[-1]
    damage(Path(str(last.folder)), "truncated")
    with pytest.raises(Damaged, match=r"state\.pt has \d+ bytes instead of \d+"):
        last.read()


@pytest.mark.parametrize("harm", [*HARMS, "folder deleted"])
def test_a_damaged_best_checkpoint_is_reported_and_the_next_best_is_used(
    tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config(tmp_path, keep={"last": 2, "best": 2}))
    folder = Folder.at(tmp_path / "run")
    best, *others = [c.step for c in checkpoint.ranked(checkpoint.committed(folder), "loss", "lower")]
    folder.write(
        RESULT,
        Result(name="run", run=str(folder), state="finished", step=20, epoch=2, best_step=best).model_dump_json().encode(),
    )
    assert evaluate(folder)["notes"] == []
    place = Path(str(folder)) / f"checkpoints/step-{best:08d}"
    shutil.rmtree(place) if harm == "folder deleted" else damage(place, harm)
    measured = evaluate(folder)
    assert measured["step"] == others[0]
    (reason,) = measured["notes"]
    assert f"step-{best:08d}" in reason
    assert f"step {others[0]} is used instead" in capsys.readouterr().err
    for step in {*steps(folder)} - {best}:
        damage(Path(str(folder)) / f"checkpoints/step-{step:08d}", "truncated")
    with pytest.raises(UserError, match=r"no checkpoint of run .* can be used"):
        load_run(folder)


def test_an_object_store_holds_checkpoints_too(tmp_path: Path) -> None:
    """A filesystem that cannot append or rename, as far as the run folder can tell."""
    train(config(tmp_path / "calm"))
    there, record = record_of(config(tmp_path))
    (tmp_path / "bucket" / "run").mkdir(parents=True)
    folder = Folder(fs.SubTreeFileSystem(str(tmp_path / "bucket"), fs.LocalFileSystem()), "run")
    assert not folder.is_local
    for until in (12, None):
        loop = Loop(folder, record, Ranks.of_this_process(), time.time())
        inner = loop._step

        def watched(batch: Any, loop: Loop = loop, inner: Any = inner, until: int | None = until) -> None:
            if loop.progress.step == until:
                raise RuntimeError("power cut")
            inner(batch)

        loop._step = watched  # type: ignore[method-assign]
        with pytest.raises(RuntimeError) if until else nullcontext():
            loop.run()
    assert events(folder, "start")[-1]["step"] == 10
    assert losses(folder) == losses(Folder.at(tmp_path / "calm" / "run"))
    assert not (there / "checkpoints").names()


def test_a_checkpoint_in_an_object_store_has_the_records_of_all_its_steps_beside_it(tmp_path: Path) -> None:
    """Wherever a kill comes, no step that is not computed again is without its record."""
    store, found = Store(), []
    folder = store.folder()
    _, record = record_of(config(tmp_path))

    def look(path: str) -> None:
        if path.endswith("manifest.json"):
            found.append([r["step"] for r in read_journal(folder, METRICS) if r["kind"] == "train"])

    store.after_write = look
    Loop(folder, record, Ranks.of_this_process(), time.time()).run()
    logged = [r["step"] for r in read_journal(folder, METRICS) if r["kind"] == "train"]
    committed = [event["step"] for event in events(folder, "checkpoint")]
    assert len(found) == len(committed) >= 2
    for step, there in zip(committed, found, strict=True):
        assert [s for s in logged if s <= step] == [s for s in there if s <= step]


def when_delayed(loop: Loop, act: Callable[[], object]) -> None:
    """Call ``act`` as soon as a checkpoint is known to be delayed, also if no record of that can be written."""

    def wait() -> None:
        _, there = loop.writer._journals
        wait_for(lambda: any(event["event"] == "checkpoint_delayed" for event in there.records), "delayed checkpoint")
        act()

    threading.Thread(target=wait, daemon=True).start()


def test_unavailable_storage_delays_the_checkpoint_and_not_the_training(tmp_path: Path) -> None:
    """A file blocks the checkpoints' folder from step 6 until training has made step 12 and the delay was noticed."""
    train(config(tmp_path / "calm", evaluate_every=100))
    loop = loop_of(config(tmp_path, evaluate_every=100))
    place, aside = Path(str(loop.folder)) / "checkpoints", tmp_path / "aside"

    def back() -> None:
        place.unlink()
        aside.rename(place)

    inner = loop._step

    def watched(batch: Any) -> None:
        if loop.progress.step == 6:
            loop.checkpointer.finish()
            place.rename(aside)
            place.write_text("")
        if loop.progress.step == 12:
            when_delayed(loop, back)
        inner(batch)

    loop._step = watched  # type: ignore[method-assign]
    assert loop.run().state == "finished"
    delayed = events(loop.folder, "checkpoint_delayed")
    assert delayed[0]["step"] == 10
    assert "cannot be written" in delayed[0]["error"]
    assert "training continues" in delayed[0]["told"]
    assert steps(loop.folder) == [15, 20]
    assert losses(loop.folder) == losses(Folder.at(tmp_path / "calm" / "run"))


def test_storage_that_stays_unavailable_ends_the_run_after_its_timeout(tmp_path: Path) -> None:
    loop = loop_of(config(tmp_path, evaluate_every=100, storage_timeout=1))
    (Path(str(loop.folder)) / "checkpoints").write_text("")
    with pytest.raises(NotWritable, match="cannot be written"):
        loop.run()


def test_a_full_disk_delays_checkpoints_and_records_and_loses_none(tmp_path: Path, small_disk: Path) -> None:
    """Something else fills the disk from step 31 to 85, for the records of which the file's last page has no room."""
    keys = {"steps": 90, "checkpoint_every": 30, "evaluate_every": 100}
    calm = config(tmp_path / "calm", **keys)
    train(calm)
    loop = loop_of(config(small_disk, **keys, dataset={"path": prepare(calm).dataset_uri}))
    inner = loop._step

    def watched(batch: Any) -> None:
        if loop.progress.step == 31:
            loop.checkpointer.finish()
            fill(small_disk / "other")
        if loop.progress.step == 85:
            assert steps(loop.folder) == [30], "training has continued without it"
            when_delayed(loop, (small_disk / "other").unlink)
        inner(batch)

    loop._step = watched  # type: ignore[method-assign]
    assert loop.run().state == "finished"
    (delayed,) = events(loop.folder, "checkpoint_delayed")
    assert "No space left on device" in delayed["error"]
    (waited,) = events(loop.folder, "storage_delayed")
    assert "No space left on device" in waited["error"]
    assert steps(loop.folder) == [60, 90]
    assert losses(loop.folder) == losses(Folder.at(tmp_path / "calm" / "run"))
    assert list(small_disk.rglob("*.tmp")) == []


def fill(file: Path) -> None:
    """Fill the disk."""
    with open(file, "wb", buffering=0) as out:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    out.write(bytes(size))
            except OSError:
                continue


def _crowd(rank: int, run: str, record: dict[str, Any], killed: bool) -> None:
    if rank == 1 and killed:
        checkpoint.write_state = _killed
    with suppress(RuntimeError):  # of gloo, when the other worker is gone
        Loop(Folder.at(run), RunRecord.model_validate(record), Ranks.of_this_process(), time.time()).run()


_write = checkpoint.write_state


def _killed(folder: Folder, name: str, state: checkpoint.State) -> checkpoint.File:
    """The process dies while it writes the second checkpoint."""
    if folder.name == "step-00000010":
        os._exit(9)
    return _write(folder, name, state)


def test_a_sharded_checkpoint_of_which_a_worker_has_not_written_its_part_does_not_count(tmp_path: Path) -> None:
    """Worker 1 dies while it writes; what worker 0 wrote is no checkpoint, and the next attempt resumes from the one before."""
    sharded = config(tmp_path, workers=2, parallelism="fsdp", steps=15, evaluate_every=100, keep={"last": 9})
    folder, record = record_of(sharded)
    for killed in (True, False):
        in_group(_crowd, 2, str(folder), record.model_dump(mode="json"), killed, may_die=killed)
        assert steps(folder) == [5] if killed else [5, 10, 15]
    assert [event["step"] for event in events(folder, "start")] == [0, 5]
    assert sorted((folder / "checkpoints/step-00000010").names()) == ["manifest.json", "state-0-of-2.pt", "state-1-of-2.pt"]
