"""The callbacks of a run on one worker: calls their hooks, and keeps their state and their requests to stop."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from heliostat.errors import UserError
from heliostat.workloads.callback import Callback, RunContext, create
from heliostat.workloads.config import CallbackEntry, callback_of
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.state import PLAIN
from heliostat.workloads.training.step import Count

Stop = dict[str, Any]
"""``by``, the entry of the config, and ``reason``."""


class Callbacks:
    """A worker's callbacks; all workers call the same methods at the same steps.

    Args:
        run: what the hooks get.
        ranks: this worker's.
        states: those of a checkpoint, by name.

    Raises:
        UserError: see `heliostat.workloads.callback.create`; a state cannot be saved.
    """

    def __init__(self, run: RunContext, ranks: Ranks, states: Mapping[str, Any]) -> None:
        self.run, self._ranks = run, ranks
        self._entries = run.config.callbacks
        self._all: dict[str, tuple[CallbackEntry, Callback]] = {}
        for entry in self._entries:
            callback = create(entry)
            if ranks.rank == 0 or callback.every_rank:
                self._all[_key(callback_of(entry)[0], self._all)] = (entry, callback)
        self._each_step = self._with("on_step")
        self._losses: list[tuple[Tensor, int]] = []
        self._stop: Stop | None = None
        self._modules = [*run.model.modules()] if self._all else []
        if not self._entries:
            return
        # Of the shards of a checkpoint, the first has the states.
        states = ranks.broadcast(dict(states))
        for key, (_, callback) in self._all.items():
            if key in states:
                callback.load_state_dict(states[key])
        self.states()

    def counting(self, count: Count) -> Count:
        """``count``, which also collects the losses of a step if a callback is called with them."""
        if not self._each_step:
            return count

        def both(loss: Tensor, samples: int) -> None:
            self._losses.append((loss.detach(), samples))
            count(loss, samples)

        return both

    def on_step(self, step: int, epoch: int) -> None:
        """Calls the hook after a step."""
        self.run.step, self.run.epoch = step, epoch
        if not self._each_step:
            return
        losses, self._losses = self._losses, []
        samples = sum(count for _, count in losses)
        parts = [loss * (count / samples) for loss, count in losses]
        # A worker without samples in an epoch's last batch has no loss.
        loss = torch.stack(parts).sum() if parts else torch.tensor(torch.nan, device=self._ranks.device)
        self._call(self._each_step, "on_step", loss)

    def on_start(self) -> None:
        """Calls the hook; what it logs is written with the next step, as the journal has the others of this one already."""
        self._call(self._with("on_start"), "on_start")

    def on_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Calls the hook after an evaluation."""
        self._call(self._with("on_evaluation"), "on_evaluation", dict(metrics))

    def on_checkpoint(self) -> None:
        """Calls the hook before a checkpoint."""
        self._call(self._with("on_checkpoint"), "on_checkpoint")

    def on_end(self, state: str, metrics: Mapping[str, Any]) -> None:
        """Calls the hook at the end.

        Raises:
            UserError: it logs a value, after the last record.
        """
        self.run.logged = {}
        self._call(self._with("on_end"), "on_end", state, metrics)
        if self.run.logged:
            raise UserError(
                f"a callback logs {', '.join(self.run.logged)} in on_end", "log it in on_evaluation, or write a file"
            )

    def logged(self) -> dict[str, float]:
        """What has been logged since the last call."""
        values, self.run.logged = self.run.logged, {}
        return values

    def agree(self, stop: Stop | None) -> Stop | None:
        """The request to stop of any worker, the same on all of them; ``stop`` is an earlier one."""
        if stop is not None or not self._entries:
            return stop
        return next(filter(None, self._ranks.all_gather_object(self._stop)), None)

    def states(self) -> dict[str, Any]:
        """A copy of the states of all callbacks, of rank 0.

        Raises:
            UserError: a state has something that a checkpoint cannot hold.
        """
        if self._ranks.rank > 0:
            return {}
        found = {key: _copy(callback.state_dict(), f"{key}.state_dict()") for key, (_, callback) in self._all.items()}
        return {key: state for key, state in found.items() if state}

    def _with(self, hook: str) -> list[tuple[CallbackEntry, Callback]]:
        return [each for each in self._all.values() if getattr(type(each[1]), hook) is not getattr(Callback, hook)]

    def _call(self, callbacks: list[tuple[CallbackEntry, Callback]], hook: str, *arguments: Any) -> None:
        for entry, callback in callbacks:
            modes = [module.training for module in self._modules]
            try:
                getattr(callback, hook)(self.run, *arguments)
            except UserError as error:
                raise UserError(f"callback {callback_of(entry)[0]}, {hook}: {error.what}", error.fix) from error
            if self._modules[0].training is not modes[0]:  # a hook that evaluates the model need not restore its mode
                for module, training in zip(self._modules, modes, strict=True):
                    module.training = training
            if self.run.reason is not None and self._stop is None:
                self._stop = {"by": entry, "reason": self.run.reason}


def _key(name: str, taken: Mapping[str, Any]) -> str:
    """A name for the state of a callback: a second one of the same class gets a number."""
    number, key = 1, name
    while key in taken:
        number += 1
        key = f"{name}#{number}"
    return key


def _copy(value: Any, place: str) -> Any:
    """A copy of a state, on the CPU: it is written while training continues."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if type(value) in (list, tuple):
        return type(value)(_copy(each, f"{place}[{number}]") for number, each in enumerate(value))
    if isinstance(value, dict) and all(type(key) in PLAIN for key in value):
        return {key: _copy(each, f"{place}[{key!r}]") for key, each in value.items()}
    raise UserError(
        f"callback {place} is a {type(value).__name__}, which a checkpoint cannot hold",
        "return numbers, texts, lists, dictionaries and tensors",
    )
