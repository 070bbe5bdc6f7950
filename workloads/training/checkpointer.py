"""One worker's side of a run's checkpoints: which one to go on from, and new ones, written beside the training."""

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
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.checkpoint import SECTIONS, Checkpoint, File, State
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS
from heliostat.workloads.run.retry import UNAVAILABLE, with_retry
from heliostat.workloads.task import Task
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.parallel import load_model, load_optimizer, sharded, sharded_names, state_of

LOOK, LOOK_REMOTE, LATE = 0.05, 1.0, 10.0
"""Seconds between looks for the files of other workers, and after which their absence is told."""
TALK = 1.0
"""Seconds between two talks of workers that wait for what is being written."""
LINGER = 10.0
"""Seconds that a worker which has failed gives to the checkpoint that is being written."""


class Tell(Protocol):
    """RunWriter an event of a step."""

    def __call__(self, event: str, step: int, /, **details: Any) -> None: ...


class Checkpointer:
    """Loads and saves what `state_of` gives; all workers call the same methods in the same order.

    A save copies the state to the CPU, and a thread writes the copy: all workers their own part if the model is sharded,
    otherwise the first worker alone. There is one such thread at a time; its errors are raised where the next save is made.
    The first worker's thread waits for the files of the others to appear, and then writes the manifest.
    """

    def __init__(
        self, run: Folder, config: TrainConfig, task: Task, ranks: Ranks, model: nn.Module,
        optimizer: torch.optim.Optimizer, tell: Tell, persist: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.run, self.config, self.task, self.ranks, self.tell = run, config, task, ranks, tell
        self._persist = persist
        """Writes the records of the steps that a checkpoint is about to make final."""
        self.model, self.optimizer = model, optimizer
        self._sharded = sharded(config, ranks)
        self._parts = ranks.world if self._sharded else 1
        # In the marks of the files: those of an earlier attempt at the same step must not count.
        self._attempt = ranks.broadcast(uuid.uuid4().hex[:8])
        self._buffers: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._since = time.monotonic()

    # --- loading ----------------------------------------------------------------------------------------------

    def restore(self) -> dict[str, Any]:
        """Load the newest checkpoint that is whole; its ``progress``, or nothing if there has never been one.

        Raises:
            UserError: there were checkpoints, and none of them is whole.
        """
        found, lost = self.ranks.broadcast((checkpoint.found(self.run), self._lost()) if self.ranks.rank == 0 else ([], None))
        if lost and lost > max((c.step for c in found if not c.damage), default=-1) and lost not in {c.step for c in found}:
            found.append(Checkpoint(checkpoint.folder_of(self.run, lost), lost, damage="its manifest is missing"))
        loaded, skipped = self._first_whole(reversed(found))
        if loaded:
            load_optimizer(self.model, self.optimizer, loaded[1])
            progress: dict[str, Any] = loaded[1]["progress"]
            return progress
        if skipped:
            raise UserError(
                f"no checkpoint of run {self.run} can be used:\n    " + "\n    ".join(skipped),
                "restore one of them, or start anew under another name (--set name=...)",
            )
        return {}

    def load_best(self) -> Checkpoint | None:
        """Load the model of the best checkpoint that is whole; None if none was measured."""
        found = self.ranks.broadcast(checkpoint.committed(self.run) if self.ranks.rank == 0 else [])
        loaded, _ = self._first_whole(checkpoint.ranked(found, self.task.metric, self.task.better))
        return loaded[0] if loaded else None

    def newest(self) -> int | None:
        """The step of the newest checkpoint."""
        self.finish()
        steps = [c.step for c in checkpoint.committed(self.run)] if self.ranks.rank == 0 else []
        return self.ranks.broadcast(max(steps, default=None))

    def _lost(self) -> int | None:
        """The step of the last checkpoint that was told of."""
        told = [event["step"] for event in read_journal(self.run, EVENTS) if event.get("event") == "checkpoint"]
        return told[-1] if told else None

    def _first_whole(self, candidates: Iterable[Checkpoint]) -> tuple[tuple[Checkpoint, State] | None, list[str]]:
        """The first that all workers can read, loaded into the model, and why those before it could not be."""
        names, skipped = sharded_names(self.model), []
        for candidate in candidates:
            state, damage = {}, ""
            try:
                state = candidate.read(self.ranks.rank, self.ranks.world, names)
            except checkpoint.Damaged as error:
                damage = str(error)
            if problem := next((text for text in self.ranks.all_gather_object(damage) if text), None):
                self.tell("checkpoint_skipped", candidate.step, reason=problem, told=f"{problem}; it is skipped")
                skipped.append(problem)
                continue
            load_model(self.model, state)
            return (candidate, state), skipped
        return None, skipped

    # --- saving -----------------------------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether ``checkpoint_seconds`` have gone by, on this worker's clock."""
        seconds = self.config.checkpoint_seconds
        return seconds is not None and time.monotonic() - self._since >= seconds

    def save(self, step: int, progress: dict[str, Any], metrics: dict[str, float], wait: bool = False) -> None:
        """Begin to save; with ``wait``, or if that is configured, return when the checkpoint is committed."""
        began = time.perf_counter()
        self.finish()
        wait = wait or not self.config.checkpoint_async
        if self._sharded or self.ranks.rank == 0:
            state, ready = self._copy({**state_of(self.model, self.optimizer), "progress": progress})
            stood = None if wait else time.perf_counter() - began
            work = partial(self._write, step, state, ready, metrics, began, stood)
            self._thread = threading.Thread(target=self._guarded, args=(work,), name="checkpoint", daemon=True)
            self._thread.start()
        if wait:
            self.finish()
        self._since = time.monotonic()

    def check(self) -> None:
        """Raise the error of a save in the background, if there was one."""
        if self._error:
            error, self._error = self._error, None
            raise error

    def finish(self) -> None:
        """Wait until all workers have written what they began to, however long that takes."""
        while True:
            if self._thread:
                self._thread.join(TALK)
            busy = self._thread is not None and self._thread.is_alive()
            # They talk meanwhile: who waits in silence is taken for dead.
            everyone = self.ranks.all_gather([float(busy), float(self._error is not None)])
            self.check()
            if failed := everyone[:, 1].nonzero().flatten().tolist():
                raise JobFailed(f"worker {failed[0]} could not write its part of a checkpoint")
            if not everyone[:, 0].any():
                return

    def close(self) -> None:
        """Let what is being written end, for a while: after a failure it may wait for others in vain."""
        if self._thread:
            self._thread.join(LINGER)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # raised in the training thread
            self._error = error

    def _copy(self, state: State) -> tuple[State, Callable[[], None]]:
        """The state in CPU memory, and what to call before it is read: copies from a GPU are only begun here."""
        on_gpu = self.ranks.device.type == "cuda"

        def copy(place: str, tensor: Tensor) -> Tensor:
            if place not in self._buffers:
                self._buffers[place] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
            return self._buffers[place].copy_(tensor.detach(), non_blocking=True)

        copied = {s: {name: copy(f"{s}/{name}", tensor) for name, tensor in state[s].items()} for s in SECTIONS}
        if on_gpu:
            # On the stream of the training: the next step, which changes the parameters, comes after it.
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            return {**state, **copied}, event.synchronize
        return {**state, **copied}, lambda: None

    # --- in the thread ----------------------------------------------------------------------------------------

    def _write(
        self, step: int, state: State, ready: Callable[[], None], metrics: dict[str, float], began: float, stood: float | None
    ) -> None:
        """Write this worker's file, and on the first worker the manifest; ``stood`` is how long training stood still."""
        ready()
        folder = checkpoint.folder_of(self.run, step)
        patient = partial(with_retry, tell=partial(self._delayed, step), seconds=self.config.storage_timeout)
        try:
            name = self._file(self.ranks.rank)
            file: File = patient(lambda: checkpoint.write_state(folder, name, state))
            if self.ranks.rank > 0:
                patient(lambda: folder.write(self._mark(self.ranks.rank), json.dumps(file).encode()))
                return
            files = {name: file, **{self._file(r): self._await(step, folder, r, patient) for r in range(1, self._parts)}}
            self._persist()
            patient(lambda: checkpoint.commit(folder, step, metrics, files))
        except UNAVAILABLE as error:
            with suppress(*UNAVAILABLE):  # the same storage, and the first error is the one to tell
                folder.delete()
            if isinstance(error, UserError):
                raise
            raise JobFailed(
                f"storage {self.run} could not be written for {self.config.storage_timeout:g} s: {error}"
            ) from error
        patient(lambda: self._tidy(step, folder))
        done = time.perf_counter() - began
        size = sum(file["bytes"] for file in files.values())
        self.tell("checkpoint", step, seconds=round(done if stood is None else stood, 4), written=round(done, 4), bytes=size)

    def _await(self, step: int, folder: Folder, rank: int, patient: Callable[[Callable[[], Any]], Any]) -> File:
        """What another worker says of its file, once that is written."""
        since, late = time.monotonic(), False
        while not patient(lambda: folder.exists(self._mark(rank))):
            if not late and time.monotonic() - since > LATE:
                late = True
                self._delayed(step, f"worker {rank} has not written its part for {LATE:g} s")
            time.sleep(LOOK if self.run.is_local else LOOK_REMOTE)
        file: File = json.loads(patient(lambda: folder.read(self._mark(rank))))
        return file

    def _tidy(self, step: int, folder: Folder) -> None:
        for rank in range(1, self._parts):
            folder.delete(self._mark(rank))
        keep = self.config.keep
        checkpoint.prune(self.run, step, keep.last, keep.best, self.task.metric, self.task.better)

    def _delayed(self, step: int, error: str) -> None:
        told = f"the checkpoint of step {step} waits: {error}; training goes on, and it is tried again"
        self.tell("checkpoint_delayed", step, rank=self.ranks.rank, error=error, told=told)

    def _file(self, rank: int) -> str:
        return f"state-{rank}-of-{self._parts}.pt" if self._sharded else "state.pt"

    def _mark(self, rank: int) -> str:
        return f"{self._file(rank)}.{self._attempt}"
