"""The schema of a train config, such as the YAML files in ``workloads/configs``."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from heliostat.config import Config, digest
from heliostat.wording import counted
from heliostat.workloads.foreign_keys import FOREIGN, PRECISIONS
from heliostat.workloads.optimization.config import OptimizerConfig
from heliostat.workloads.then_config import THEN, Following
from heliostat.workloads.tracking_config import NOTIFY, TRACKING, Notified, Tracking, name_of

Better = Literal["higher", "lower"]
BETTER: dict[str, Better] = {
    **dict.fromkeys(("accuracy", "balanced_accuracy", "f1", "auc", "average_precision", "r2", "precision", "recall"), "higher"),
    **dict.fromkeys(("loss", "log_loss", "calibration_error", "rmse", "mse", "mae", "pinball_loss", "perplexity"), "lower"),
}
"""Whether a higher metric is better, by the names that mean the same everywhere."""

CHANGEABLE = {
    "workers", "resources", "micro_batch", "storage", "log_every", "checkpoint_every",
    "max_failures", "hang_minutes", "grow_seconds",
    "checkpoint_seconds", "checkpoint_async", "keep", "storage_timeout", "parallelism", "activation_checkpointing", "compile",
    "find_unused_parameters", "evaluate_every", "evaluate_samples", "early_stopping", "report", "requirements",
    "callbacks", "tracking", "notify", "then",
}  # fmt: skip
"""Keys that decide where and how fast a run trains, and what of it is measured and kept, not what its steps compute: they may
change when it is resumed."""
_REMOVE = "remove it"
OF_BATCHES = {
    "epochs": "set steps instead: the number of rounds, such as 300",
    "optimizer": "remove it; the learning rate is model.learning_rate",
    **dict.fromkeys(("global_batch", "micro_batch", "precision", "drop_last", "lanes"), _REMOVE),
    **dict.fromkeys(
        ("parallelism", "find_unused_parameters", "activation_checkpointing", "sync_batchnorm", "compile"), _REMOVE
    ),
}
"""Keys of batches and of their gradients, which a run by rounds over the whole train split does not have: what to do."""
ADDED = {
    "metric", "optimizer.type", "optimizer.options", "optimizer.schedule", "optimizer.schedule_options", "optimizer.clip_value",
    "optimizer.groups", "optimizer.layer_decay", "optimizer.freeze", "optimizer.freeze_steps", "optimizer.ema", "callbacks",
    "tracking", "notify", "then",
}  # fmt: skip
"""Keys, dotted where they are nested, that the first versions did not have: at their defaults they are left out of `identity`,
so that runs of those versions are resumed."""
BY_ROUNDS = {"gradient-boosting"}
"""The bundled tasks whose runs are by rounds."""
LENGTH = {"epochs", "steps"}
"""Keys that may grow, see `heliostat.workloads.plan.Plan.standing`."""


def _name(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"\w[\w.-]{0,99}", value):
        raise ValueError(f"{value!r} cannot be a run's name; use up to 100 letters, digits, '-', '_' and '.', a letter first")
    return value


Name = Annotated[str, BeforeValidator(_name)]


def current_task(value: str) -> str:
    """Version 0.1 named our own modules without ``heliostat.``; its configs and runs are still accepted."""
    module = value.partition(":")[0]
    moved = module.startswith(("workloads.tasks.", "workloads.examples."))
    ours = Path(__file__).parent.parent.joinpath(*module.split(".")).with_suffix(".py")
    return f"heliostat.{value}" if moved and ours.is_file() else value


TaskName = Annotated[str, AfterValidator(current_task)]
CallbackEntry = str | Annotated[dict[str, dict[str, Any]], Field(min_length=1, max_length=1)]


def callback_of(entry: CallbackEntry) -> tuple[str, dict[str, Any]]:
    """The name and the options in an entry of ``callbacks``."""
    return (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))


class DatasetConfig(Config):
    """The data: an existing dataset (``path``), or a source that is built on first use."""

    path: str | None = Field(None, description="the path or URI of an existing dataset")
    source: str | None = Field(None, min_length=1, description="a source, such as digits")
    options: dict[str, Any] = Field({}, description="the source's options")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.path is None) == (self.source is None):
            raise ValueError("needs exactly one of path and source; write dataset: {source: digits}, or path:")
        if self.path and self.options:
            raise ValueError("has options, but they belong to a source; remove options, or give source instead of path")
        return self


class EarlyStopping(Config):
    """Stops the run when the metric has not improved for ``patience`` evaluations."""

    patience: int = Field(gt=0, description="a whole number of evaluations, at least 1")
    min_delta: float = Field(0.0, ge=0, description="the smallest improvement that counts, a number, at least 0")


class StartFrom(Config):
    """The weights that a new run starts from."""

    path: str = Field(
        min_length=1,
        description="a run's folder, such as runs/a, a version such as churn@champion, or a file such as weights.pt",
    )
    strict: bool = Field(True, description="false loads the tensors that fit, and leaves the others new")


def _start_from(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _precision(value: Any) -> Any:
    if (ours := PRECISIONS.get(str(value))) and value != ours:
        raise ValueError(f"{value!r} is another tool's name; write {ours}: the weights are in float32 with each precision")
    return value


def _optimizer(value: Any) -> Any:
    # Not converted: a type that is no mapping would be lost by --set optimizer.lr=0.1.
    if isinstance(value, str):
        raise ValueError(f"{value!r} is not a mapping; write optimizer: {{type: {value}}}")
    return value


def _dataset(value: Any) -> Any:
    if isinstance(value, str):
        kept = f"{{path: {value}}}" if "/" in value or Path(value).is_dir() else f"{{source: {value}}}"
        written = f"{{source: table, options: {{path: {value}}}}}" if Path(value).is_file() else kept
        raise ValueError(f"{value!r} is not a mapping; write dataset: {written}")
    return value


class Keep(Config):
    """Which checkpoints of a run are kept."""

    last: int = Field(2, ge=1, description="how many of the newest, at least 1; with 2, a damaged one loses little")
    best: int = Field(1, ge=0, description="how many of the best by the metric, at least 0")


class ReportConfig(Config):
    """What the report of a run on a table shows besides the metrics."""

    by: list[str] = Field([], description="columns by whose values the test metrics are shown, such as [country]")
    rows: int = Field(0, ge=0, le=1000, description="test rows with the largest errors that are shown, with all their values")


class Resources(Config):
    """Resources of each worker."""

    cpu: int = Field(1, ge=1, description="CPUs a worker, at least 1")
    gpu: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="GPUs a worker: 0, 1, or auto (1 where there are GPUs)"
    )


class TrainConfig(Config):
    """The config of a run; keys that have a default may be left out."""

    foreign: ClassVar[dict[str, str]] = FOREIGN

    name: Name = Field(description="a folder's name, such as digits-2")
    task: TaskName = Field(description="a task in workloads/tasks, or module:Class of your own")
    model: dict[str, Any] = Field({}, description="the task's own options")
    dataset: Annotated[DatasetConfig, BeforeValidator(_dataset)] = Field(description="a mapping such as {source: digits}")
    global_batch: int = Field(64, ge=1, description="samples a step over all workers, at least 1")
    micro_batch: int | None = Field(None, ge=1, description="samples that a worker computes at once, at least 1")
    epochs: int | None = Field(None, ge=1, description="a whole number of passes over the data, at least 1")
    steps: int | None = Field(None, ge=1, description="a whole number of steps, at least 1")
    start_from: Annotated[StartFrom | None, BeforeValidator(_start_from, json_schema_input_type=StartFrom | str | None)] = (
        Field(None, description="a run's folder or a file of weights, or a mapping such as {path: runs/a, strict: false}")
    )
    metric: str | Annotated[dict[str, Better], Field(min_length=1, max_length=1)] | None = Field(
        None,
        description="the metric that decides the best checkpoint, such as auc, or with what is better, {cost: lower}; "
        "null: the task's",
    )
    optimizer: Annotated[OptimizerConfig, BeforeValidator(_optimizer)] = OptimizerConfig()
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], BeforeValidator(_precision)] = Field(
        "auto", description="auto (bf16 on GPUs that have it, else fp32), fp32, bf16 or fp16"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="a whole number, at least 0")
    drop_last: bool = Field(False, description="true drops an epoch's last batch if it is incomplete")
    lanes: int | None = Field(
        None, ge=1, le=65536, description="null, or more than 64 to mix more shards; see datasets/order.py"
    )
    evaluate_every: int = Field(100, ge=1, description="steps between evaluations, at least 1")
    evaluate_samples: int | None = Field(None, ge=1, description="validation samples to measure, or null for all")
    early_stopping: EarlyStopping | None = Field(None, description="a mapping such as {patience: 5}, or null")
    parallelism: Literal["ddp", "fsdp"] = Field(
        "ddp", description="ddp (each worker holds the model) or fsdp (each holds a shard)"
    )
    find_unused_parameters: bool = Field(
        False, description="true lets the loss leave out parameters, with several workers and ddp"
    )
    activation_checkpointing: bool = Field(
        False, description="true recomputes activations in the backward pass, to save memory"
    )
    sync_batchnorm: bool = Field(False, description="true computes batch norm over the samples of all workers")
    compile: bool = Field(False, description="true compiles the model with torch.compile")
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints, at least 1")
    checkpoint_seconds: float | None = Field(
        None, gt=0, description="the longest time between checkpoints, in seconds, or null"
    )
    checkpoint_async: bool = Field(True, description="false blocks training while a checkpoint is written")
    keep: Keep = Keep()
    storage_timeout: float = Field(900, gt=0, description="seconds for which storage may be full or unavailable")
    report: ReportConfig = ReportConfig()
    log_every: int = Field(10, ge=1, description="steps between records of the loss, at least 1")
    callbacks: list[CallbackEntry] = Field(
        [], description="callbacks of your own, such as [module:Class, {module:Class: {option: value}}]"
    )
    workers: Annotated[int, Field(ge=1)] | Annotated[list[int], Field(min_length=2, max_length=2)] = Field(
        1, description="a whole number of workers, at least 1, or [least, most] for an elastic run"
    )
    max_failures: int = Field(5, ge=0, description="failures in a row, with no new checkpoint between them, that are retried")
    hang_minutes: float = Field(
        10, gt=0, description="minutes after which a collective that some worker does not reach has failed"
    )
    grow_seconds: float = Field(60, gt=0, description="seconds between checks whether more workers fit")
    resources: Resources = Resources()
    requirements: list[str] | str = Field(
        [], description="packages that a cluster installs beside the image's, as pip writes them, or the path of a file of them"
    )
    storage: str = Field("runs", min_length=1, description="the folder or URI that holds the runs")
    tracking: Tracking = Field([], description=TRACKING)
    notify: Notified = Field([], description=NOTIFY)
    then: Following = Field(None, description=THEN)

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"epochs is {self.epochs:g} and steps is {self.steps}, but a run has one of them; "
                "leave one out: --set epochs=null, or --set steps=null"
            )
        if self.epochs is self.steps is None:
            raise ValueError("a run needs exactly one of epochs and steps; set epochs: 10, or steps: 1000")
        return self

    @model_validator(mode="after")
    def _batches(self) -> Self:
        batch, micro = self.global_batch, self.micro_batch
        if isinstance(self.workers, list):
            # A batch is divided among any number of workers, as evenly as possible.
            least, most = self.workers
            if not 1 <= least <= most:
                raise ValueError(f"workers is [{least}, {most}]; give [least, most] with 1 <= least <= most, such as [1, 4]")
            if most > batch and not self.by_rounds:
                raise ValueError(f"workers is [{least}, {most}], but global_batch is {batch}; set workers to at most {batch}")
            return self
        workers = self.workers
        if self.by_rounds:
            return self
        if batch % workers:
            raise ValueError(
                f"global_batch is {batch}, which {workers} workers do not divide; "
                f"set global_batch to {_multiple(batch, workers)}, or change workers"
            )
        if micro and batch // workers % micro:
            raise ValueError(
                f"global_batch is {batch}, so each of {workers} workers has {counted(batch // workers, 'sample')} a step, "
                f"which micro_batch {micro} does not divide; "
                f"set global_batch to {_multiple(batch, workers * micro)}, or change micro_batch"
            )
        return self

    @property
    def by_rounds(self) -> bool:
        """Whether this is a bundled task whose steps are rounds over the whole train split."""
        return self.task in BY_ROUNDS

    @property
    def own_code(self) -> dict[str, str]:
        """What of the user's own or of a library the run uses, ``module:Name``, by the key that names it."""
        named = {
            "task": self.task,
            "dataset.source": self.dataset.source or "",
            "optimizer.type": self.optimizer.type,
            "optimizer.schedule": self.optimizer.schedule,
            **{f"callbacks.{number}": name for number, (name, _) in enumerate(map(callback_of, self.callbacks))},
            **{f"tracking.{number}": name for number, name in enumerate(map(name_of, self.tracking))},
        }
        return {key: name for key, name in named.items() if ":" in name}

    @property
    def least_workers(self) -> int:
        """The fewest workers that the run can use."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """The most workers that the run can use."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def identity(self) -> dict[str, Any]:
        """The keys that decide what the run computes: they must not change when it is resumed."""
        return without_added(self, self.model_dump(mode="json", exclude=CHANGEABLE))

    @property
    def hash(self) -> str:
        return digest(self.identity)


def _multiple(value: int, of: int) -> int:
    return max(1, round(value / of)) * of


def without_added(config: Config, keys: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config's keys without those of `ADDED` that have their default."""
    kept = {}
    for key, value in keys.items():
        inner, default = getattr(config, key), type(config).model_fields[key].get_default(call_default_factory=True)
        if prefix + key in ADDED and inner == default:
            continue
        kept[key] = without_added(inner, value, f"{prefix}{key}.") if isinstance(inner, Config) else value
    return kept
