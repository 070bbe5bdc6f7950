"""A callback for the ``Trainer`` of transformers (5.24)."""

from typing import Any

from heliostat.workloads.torchrun import measured
from heliostat.workloads.torchrun.stopping import leave, stopping

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"HuggingFaceCallback needs transformers: {error}\n  fix: pip install transformers") from None

SUMMARY = "train_runtime"
"""In what is logged when a training has ended: means over this process's part of it, which belong to no step."""
RUNTIME = "eval_runtime"
RATES = (RUNTIME, "eval_samples_per_second", "eval_steps_per_second")
"""What transformers adds to the metrics of an evaluation."""


class HuggingFaceCallback(TrainerCallback):  # type: ignore[misc]  # transformers is imported without its types
    """Records what the trainer logs and evaluates; on a drain, Ctrl-C or ``heliostat stop`` it saves, and the script exits::

    trainer = Trainer(args=TrainingArguments(checkpoints(), ...), callbacks=[HuggingFaceCallback()], ...)
    trainer.train(resume_from_checkpoint=last_checkpoint())
    """

    def __init__(self) -> None:
        self._leaves = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        measured.begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        measured.stepped(state.global_step)
        self._leaves = stopping(state.global_step)
        control.should_save = control.should_save or self._leaves

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        if not measured.records() or SUMMARY in logs:
            return
        values = {name: value for name, value in logs.items() if name not in RATES and isinstance(value, int | float)}
        if "learning_rate" in values:
            values["lr"] = values.pop("learning_rate")
        measured.write(state.global_step, values, seconds=logs.get(RUNTIME, 0.0))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._leaves:
            leave(f"checkpoint-{state.global_step}")
