"""The Callback contract: code of the user's own that is called while a run trains, named ``module:Class`` in a config."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from heliostat import own_code
from heliostat.config import Config, nearest, validate
from heliostat.errors import UserError, collected, combined
from heliostat.workloads.config import CallbackEntry, TrainConfig, callback_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

KEY = "callbacks"
RESERVED = ("loss", "lr", "samples_per_second", "data_wait")
"""What a run records of its steps itself."""
FOREIGN = {
    **dict.fromkeys(("on_train_start", "on_train_begin", "on_fit_start"), "on_start"),
    **dict.fromkeys(("on_train_batch_end", "on_step_end", "on_optimizer_step"), "on_step"),
    **dict.fromkeys(("on_validation_end", "on_validation_epoch_end", "on_evaluate"), "on_evaluation"),
    **dict.fromkeys(("on_save", "on_save_checkpoint"), "on_checkpoint"),
    **dict.fromkeys(("on_train_end", "on_fit_end"), "on_end"),
}
"""The hooks of other frameworks, and ours."""


@dataclass
class RunContext:
    """A run as its callbacks see it."""

    name: str
    folder: str
    """The run folder, a path or a URI."""
    config: TrainConfig
    model: "nn.Module"
    """The task's own, not wrapped; with fsdp its parameters are shards, and all ranks must compute it together."""
    optimizer: "torch.optim.Optimizer | None"
    """None for a task that trains by rounds."""
    rank: int
    world: int
    total_steps: int
    step: int = 0
    """Steps that have been made."""
    epoch: int = 0
    reason: str | None = None
    """That of the first `stop`."""
    logged: dict[str, float] = field(default_factory=dict)
    """Values of this step that are not written yet."""

    def stop(self, reason: str) -> None:
        """Ends the run as early stopping does: it is evaluated with its best checkpoint, and finished.

        It ends at the next step that is logged, evaluated or saved, so at the same one with any number of workers.
        """
        self.reason = self.reason or reason

    def log(self, name: str, value: "float | Tensor") -> None:
        """Writes a value of this step into ``metrics.jsonl``, from where the report has a curve of it; only on rank 0.

        Of a tensor on a GPU, this waits for the GPU.

        Raises:
            UserError: the value is no number, or the name is one that the run itself records.
        """
        if not isinstance(name, str):
            raise UserError(f"it logs a value with the name {name!r}, which is no text", "give it a text")
        if name in RESERVED:
            raise UserError(f"it logs {name!r}, but the run records {', '.join(RESERVED)} itself", "give it another name")
        try:
            self.logged[name] = float(value)
        except (TypeError, ValueError, RuntimeError):
            what = f"a tensor of shape {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)
            raise UserError(f"it logs {name} = {what}", "log one number") from None


class Callback:
    """Code that is called while a run trains; subclass it, and name it in ``callbacks`` of a config.

    Its attributes are lost when a run is resumed, but for what ``state_dict`` returns. An exception ends the run.
    """

    class Options(Config):
        """The keys that it takes in the config: ``callbacks: [{module:Class: {key: value}}]``."""

    every_rank: ClassVar[bool] = False
    """Whether it is called on all workers, as one must be that computes a sharded model or uses collectives; else on rank 0."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def on_start(self, run: RunContext) -> None:
        """The workers have started, also those of a run that is resumed; ``run.step`` is 0, or the step to resume from."""

    def on_step(self, run: RunContext, loss: "Tensor") -> None:
        """A step has been made; the gradients are still there, clipped.

        ``loss`` is the mean over this worker's samples, a scalar on its device: ``float(loss)`` waits for a GPU. It is NaN if
        it has none, as can be in an epoch's last step.
        """

    def on_evaluation(self, run: RunContext, metrics: Mapping[str, float]) -> None:
        """The validation split has been measured."""

    def on_checkpoint(self, run: RunContext) -> None:
        """A checkpoint is about to be saved; ``state_dict`` is called after this."""

    def on_end(self, run: RunContext, state: str, metrics: Mapping[str, Mapping[str, float | None]]) -> None:
        """The workers end; not called if they fail or are killed.

        Args:
            run: of the run; its model is that of the best checkpoint if it is finished.
            state: ``finished``, ``stopped``, ``diverged``, or ``drain`` or ``grow`` where other workers continue.
            metrics: by split, if it is finished.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: numbers, texts, lists, dictionaries and tensors. It is that of rank 0 on all workers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Called before ``on_start`` of a run that is resumed from a checkpoint with a state of this callback."""


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


def check_callbacks(entries: Sequence[CallbackEntry]) -> None:
    """Checks all callbacks of a config: that they are there, their hooks and their options.

    Raises:
        UserError: the message has all problems.
    """
    problems: list[UserError] = []
    for entry in entries:
        name, options = callback_of(entry)
        with collected(problems):
            validate(options, find(name).Options, f"{KEY}.{name}")
    if problems:
        raise combined(problems, KEY)


def create(entry: CallbackEntry) -> Callback:
    """The callback of an entry of ``callbacks``.

    Raises:
        UserError: see `find`; an option is invalid.
    """
    name, options = callback_of(entry)
    cls = find(name)
    return cls(validate(options, cls.Options, f"{KEY}.{name}"))


def find(name: str) -> type[Callback]:
    """Finds a callback class, ``module:Class`` from the working directory.

    Raises:
        UserError: there is no such class, its module fails to import, or it has a hook that would not be called as it is.
    """
    module, _, cls_name = name.partition(":")
    if not cls_name:
        raise UserError(
            f"{KEY} has {name!r}, which is not a callback", "write module:Class, or {module:Class: {option: value}}"
        )
    own_code.check_name(KEY, name)
    cls = own_code.class_of(KEY, name, module, cls_name, Callback)
    if problems := [*_problems(cls)]:
        raise UserError(f"{KEY} {name!r}: {'; '.join(what for what, _ in problems)}", "; ".join(fix for _, fix in problems))
    return cls


def _problems(cls: type[Callback]) -> "Sequence[tuple[str, str]]":
    """What of a class would not be called, or not as it is written, with the fixes."""
    found = []
    for name in dir(cls):
        if (name.startswith("on_") and name not in HOOKS) or name in FOREIGN:
            fix = f"did you mean {FOREIGN[name]}?" if name in FOREIGN else nearest(name, HOOKS)
            found.append((f"nothing calls {name}", fix))
    for name in (*HOOKS, "load_state_dict", "state_dict"):
        wanted = inspect.signature(getattr(Callback, name))
        given = inspect.signature(getattr(cls, name))
        try:
            given.bind(*wanted.parameters)
        except TypeError:
            found.append((f"{name} takes ({', '.join(given.parameters)})", f"write {name}({', '.join(wanted.parameters)})"))
    if (cls.state_dict is Callback.state_dict) != (cls.load_state_dict is Callback.load_state_dict):
        there, other = ("state_dict", "load_state_dict")[:: 1 if cls.load_state_dict is Callback.load_state_dict else -1]
        found.append((f"it has {there}, but no {other}", f"write {other} too, or its state is lost when a run is resumed"))
    return found
