"""A callback for the ``Trainer`` of Lightning (2.6)."""

import sys
import time
from typing import TYPE_CHECKING, Any

from heliostat.workloads.torchrun import measured, random_states, this_run
from heliostat.workloads.torchrun.own_checkpoints import checkpoints
from heliostat.workloads.torchrun.stopping import leave, stopping

# One framework under two names, of which a trainer takes the callbacks and loggers of its own only.
try:
    if TYPE_CHECKING or "pytorch_lightning" not in sys.modules:
        from lightning.pytorch import Callback
        from lightning.pytorch.loggers import Logger
    else:
        from pytorch_lightning import Callback
        from pytorch_lightning.loggers import Logger
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"LightningCallback needs lightning: {error}\n  fix: pip install lightning") from None

RANDOM = "heliostat_random"
"""In a checkpoint: the random states of all ranks, which Lightning does not keep, and whether an epoch has ended with it."""


class LightningCallback(Callback):  # type: ignore[misc]  # Lightning is imported without its types
    """Records what modules log; on a drain, Ctrl-C or ``heliostat stop`` it saves, and the script exits. Resumed with the same
    number of processes, it has the random numbers of an undisturbed one::

    trainer = Trainer(callbacks=[LightningCallback(), ModelCheckpoint(checkpoints(), ...)], ...)
    trainer.fit(model, data, ckpt_path=last_checkpoint())
    """

    def __init__(self) -> None:
        self.evaluates = time.monotonic()
        """When the last evaluation began."""
        self._random: dict[str, Any] | None = None
        """Of the checkpoint that is resumed."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if not any(isinstance(logger, _Recorder) for logger in trainer.loggers):
            trainer.loggers = [*trainer.loggers, _Recorder(trainer, self)]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        measured.begin(trainer.global_step)
        # Lightning's own handler has ranks communicate while they do something else, and ends them after different steps.
        this_run.replace_signals()
        resumed, self._random = self._random, None
        if resumed and random_states.restore_own(resumed["states"]) and resumed["epoch_ended"]:
            # Lightning draws the seed of an epoch's workers as it begins the epoch, but of the first one before this hook.
            iter(trainer.fit_loop._data_fetcher)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[RANDOM] = {"states": random_states.of_all_ranks(), "epoch_ended": trainer.is_last_batch}

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._random = checkpoint.get(RANDOM)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        measured.stepped(step)
        if stopping(step):
            name = f"stopped-step={step}.ckpt"
            trainer.save_checkpoint(f"{checkpoints()}/{name}")
            leave(name)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.evaluates = time.monotonic()


class _Recorder(Logger):  # type: ignore[misc]
    """Gets the metrics from Lightning when it logs them, each reduced over the ranks."""

    def __init__(self, trainer: Any, callback: LightningCallback) -> None:
        super().__init__()
        self._trainer, self._callback = trainer, callback

    @property
    def name(self) -> str:
        return "heliostat"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if measured.records():
            # Not the step of Lightning, which counts from 0 in training and from 1 elsewhere.
            measured.write(self._trainer.global_step, metrics, seconds=time.monotonic() - self._callback.evaluates)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The arguments of the script are in its run."""
