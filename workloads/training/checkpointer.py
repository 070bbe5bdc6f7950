"""One worker's part of a run's checkpoints: restores the newest intact one, and writes new ones in the background."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from heliostat.errors import JobFailed, UserError
from heliostat.folder import Folder
from heliostat.retry import UNAVAILABLE, with_retry
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.checkpoint import SECTIONS, Checkpoint, File, State
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS
from heliostat.workloads.task import Task
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.parallel import sharded
from heliostat.workloads.training.state import load_model, load_update, sharded_names, state_of
from heliostat.workloads.training.update import Update

POLL, POLL_REMOTE, LATE = 0.05, 1.0, 10.0
"""Seconds between two checks for the files of other workers, and after which a missing one is reported."""
SYNC_SECONDS = 1.0
"""Seconds between two collectives of workers that wait for a checkpoint."""
CLOSE_TIMEOUT = 10.0
"""Seconds that a failed worker waits for the checkpoint that is being written."""


class NotFinite(Exception):
    """A value of a run became NaN or infinite; all workers raise it at the same step.

    Args:
        what: the value.
        step: the first step after which it was found.
    """

    def __init__(self, what: str, step: int) -> None:
        super().__init__(what, step)
        self.what, self.step = what, step


class RecordEvent(Protocol):
    """Records an event of a step."""

    def __call__(self, event: str, step: int, /, **details: Any) -> None: ...


class Checkpointer:
    """Restores and saves the `state_of` a model; all workers call the same methods in the same order.

    A save copies the state to the CPU, and a thread writes the copy: every worker its shard if the model is sharded, otherwise
    rank 0 alone. There is one such thread at a time; its errors are raised by the next `save` or `check`. The thread of rank 0
    waits for the files of the others, and then writes the manifest.
    """

    def __init__(
        self, run: Folder, config: TrainConfig, task: Task, ranks: Ranks, model: nn.Module,
        update: Update | None, record_event: RecordEvent, persist: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.run, self.config, self.task, self.ranks, self.record_event = run, config, task, ranks, record_event
        self._persist = persist
        """Writes the records up to the step of a checkpoint, before it is committed."""
        self.model, self.update = model, update
        self._infinite = set(checkpoint.not_finite(state_of(model, update)))
        """The tensors of a new model that are not finite by intent."""
        self._buffer_names = {name for name, _ in model.named_buffers()}
        self._good: int | None = None
        """The step of the newest checkpoint that this attempt has read or written; counted by rank 0."""
        self._sharded = sharded(config, ranks)
        self._parts = ranks.world if self._sharded else 1
        # Part of the markers' names, so that those of an earlier attempt at the same step do not count.
        self._attempt = ranks.broadcast(uuid.uuid4().hex[:8])
        self._buffers: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._since = time.monotonic()

    # --- loading ----------------------------------------------------------------------------------------------

    def restore(self) -> dict[str, Any]:
        """Loads the newest intact checkpoint; returns its ``progress``, empty if the run has no checkpoint.

        Raises:
            UserError: there are checkpoints, and none of them is intact.
        """
        found, lost = self.ranks.broadcast(
            (checkpoint.all_checkpoints(self.run), self._last_recorded()) if self.ranks.rank == 0 else ([], None)
        )
        if lost and lost > max((c.step for c in found if not c.damage), default=-1) and lost not in {c.step for c in found}:
            found.append(Checkpoint(checkpoint.folder_of(self.run, lost), lost, damage="its manifest is missing"))
        loaded, skipped = self._load_first_intact(reversed(found))
        if loaded:
            self._good = loaded[0].step
            if self.update:
                load_update(self.update, loaded[1])
            progress: dict[str, Any] = loaded[1]["progress"]
            return progress
        if skipped:
            raise UserError(
                f"no checkpoint of run {self.run} can be used:\n    " + "\n    ".join(skipped),
                "restore one of them, or start a new run under another name (--set name=...)",
            )
        return {}

    def load_best(self) -> Checkpoint | None:
        """Loads the model of the best intact checkpoint; None if none was evaluated. Damaged ones are reported."""
        found = self.ranks.broadcast(checkpoint.all_checkpoints(self.run) if self.ranks.rank == 0 else [])
        damaged = [c for c in found if c.damage]  # without its manifest, the metric of one is unknown: it may be the best
        loaded, _ = self._load_first_intact([*damaged, *checkpoint.ranked(found, self.task.metric, self.task.better)])
        return loaded[0] if loaded else None

    def newest(self) -> int | None:
        """The step of the newest checkpoint that this attempt has read or written."""
        self.finish()
        return self.ranks.broadcast(self._good)

    def _last_recorded(self) -> int | None:
        """The step of the last checkpoint event."""
        steps = [event["step"] for event in read_journal(self.run, EVENTS) if event.get("event") == "checkpoint"]
        return steps[-1] if steps else None

    def _load_first_intact(self, candidates: Iterable[Checkpoint]) -> tuple[tuple[Checkpoint, State] | None, list[str]]:
        """Loads the first checkpoint that all workers can read; also returns the damage of those before it."""
        names, skipped = sharded_names(self.model), []
        for candidate in candidates:
            state, damage = {}, ""
            try:
                state = candidate.read(self.ranks.rank, self.ranks.world, names, self._infinite, self._buffer_names)
            except checkpoint.Damaged as error:
                damage = str(error)
            if problem := next((text for text in self.ranks.all_gather_object(damage) if text), None):
                self.record_event("checkpoint_skipped", candidate.step, reason=problem, told=f"{problem}; it is skipped")
                skipped.append(problem)
                continue
            load_model(self.model, state)
            return (candidate, state), skipped
        return None, skipped

    # --- saving -----------------------------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether ``checkpoint_seconds`` have passed, on this worker's clock."""
        seconds = self.config.checkpoint_seconds
        return seconds is not None and time.monotonic() - self._since >= seconds

    def save(self, step: int, progress: dict[str, Any], metrics: dict[str, float], wait: bool = False) -> None:
        """Starts to save; with ``wait``, or without ``checkpoint_async``, returns when the checkpoint is committed.

        Raises:
            NotFinite: on all workers, if the state of one has a NaN, or outside of buffers an infinite value; nothing is
                written.
        """
        started = time.perf_counter()
        self.finish()
        wait = wait or not self.config.checkpoint_async
        own = self._sharded or self.ranks.rank == 0
        tensors = state_of(self.model, self.update) if own else {}
        self._check_finite(step, checkpoint.not_finite(tensors, self._infinite, self._buffer_names) if own else [])
        if own:
            state, ready = self._copy({**tensors, "progress": progress})
            blocked = None if wait else time.perf_counter() - started
            work = partial(self._write, step, state, ready, metrics, started, blocked)
            self._thread = threading.Thread(target=self._guarded, args=(work,), name="checkpoint", daemon=True)
            self._thread.start()
        if wait:
            self.finish()
        self._since = time.monotonic()

    def _check_finite(self, step: int, bad: list[str]) -> None:
        if self.ranks.all_gather([float(bool(bad))]).any():
            names = [name for part in self.ranks.all_gather_object(bad) for name in part]
            section, _, name = names[0].partition("/")
            raise NotFinite(f"the {section}'s {name}", step)

    def check(self) -> None:
        """Raises the error of a save in the background, if there is one."""
        if self._error:
            error, self._error = self._error, None
            raise error

    def finish(self) -> None:
        """Waits until all workers have written what they started to, however long that takes."""
        while True:
            if self._thread:
                self._thread.join(SYNC_SECONDS)
            busy = self._thread is not None and self._thread.is_alive()
            # Collectives meanwhile: a longer wait would time out.
            everyone = self.ranks.all_gather([float(busy), float(self._error is not None)])
            self.check()
            if failed := everyone[:, 1].nonzero().flatten().tolist():
                raise JobFailed(f"worker {failed[0]} could not write its part of a checkpoint")
            if not everyone[:, 0].any():
                return

    def close(self) -> None:
        """Waits up to `CLOSE_TIMEOUT` for the current write: after a failure, other workers' files may never appear."""
        if self._thread:
            self._thread.join(CLOSE_TIMEOUT)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # raised in the training thread
            self._error = error

    def _copy(self, state: State) -> tuple[State, Callable[[], None]]:
        """Copies the state to CPU memory; also returns what to call before it is read: copies from a GPU are asynchronous."""
        on_gpu = self.ranks.device.type == "cuda"

        def copy(place: str, tensor: Tensor) -> Tensor:
            if place not in self._buffers or self._buffers[place].shape != tensor.shape:  # trees grow
                self._buffers[place] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
            return self._buffers[place].copy_(tensor.detach(), non_blocking=True)

        copied = {s: {name: copy(f"{s}/{name}", tensor) for name, tensor in state[s].items()} for s in SECTIONS}
        if on_gpu:
            # On the training stream, so before the next step changes the parameters.
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            return {**state, **copied}, event.synchronize
        return {**state, **copied}, lambda: None

    # --- in the thread ----------------------------------------------------------------------------------------

    def _write(
        self,
        step: int,
        state: State,
        ready: Callable[[], None],
        metrics: dict[str, float],
        started: float,
        blocked: float | None,
    ) -> None:
        """Writes this worker's file, and on rank 0 the manifest; ``blocked`` is how long training was blocked."""
        ready()
        folder = checkpoint.folder_of(self.run.once, step)
        retrying = partial(with_retry, on_error=partial(self._delayed, step), seconds=self.config.storage_timeout)
        try:
            name = self._file(self.ranks.rank)
            file: File = retrying(lambda: checkpoint.write_state(folder, name, state))
            if self.ranks.rank > 0:
                retrying(lambda: folder.write(self._marker(self.ranks.rank), json.dumps(file).encode()))
                return
            files = {
                name: file,
                **{self._file(r): self._wait_for_part(step, folder, r, retrying) for r in range(1, self._parts)},
            }
            self._persist()
            retrying(lambda: checkpoint.commit(folder, step, metrics, files))
            self._good = step
        except UNAVAILABLE as error:
            with suppress(*UNAVAILABLE):  # the same storage; the first error is the one to raise
                folder.delete()
            if isinstance(error, UserError):
                raise
            raise JobFailed(
                f"storage {self.run} could not be written for {self.config.storage_timeout:g} s: {error}"
            ) from error
        retrying(lambda: self._clean_up(step, folder))
        done = time.perf_counter() - started
        size = sum(file["bytes"] for file in files.values())
        self.record_event(
            "checkpoint", step, seconds=round(done if blocked is None else blocked, 4), written=round(done, 4), bytes=size
        )

    def _wait_for_part(self, step: int, folder: Folder, rank: int, retrying: Callable[[Callable[[], Any]], Any]) -> File:
        """Waits for another worker's file; returns its manifest entry."""
        since, late = time.monotonic(), False
        while not retrying(lambda: folder.exists(self._marker(rank))):
            if not late and time.monotonic() - since > LATE:
                late = True
                self._delayed(step, f"worker {rank} has not written its part for {LATE:g} s")
            time.sleep(POLL if self.run.is_local else POLL_REMOTE)
        file: File = json.loads(retrying(lambda: folder.read(self._marker(rank))))
        return file

    def _clean_up(self, step: int, folder: Folder) -> None:
        for rank in range(1, self._parts):
            folder.delete(self._marker(rank))
        keep = self.config.keep
        checkpoint.prune(self.run.once, step, keep.last, keep.best, self.task.metric, self.task.better)

    def _delayed(self, step: int, error: str) -> None:
        message = f"the checkpoint of step {step} is delayed: {error}; training continues, and the write is retried"
        self.record_event("checkpoint_delayed", step, rank=self.ranks.rank, error=error, told=message)

    def _file(self, rank: int) -> str:
        return f"state-{rank}-of-{self._parts}.pt" if self._sharded else "state.pt"

    def _marker(self, rank: int) -> str:
        return f"{self._file(rank)}.{self._attempt}"
