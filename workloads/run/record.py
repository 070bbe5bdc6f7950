"""The files of a run folder, ``STORAGE/NAME``.

``config.yaml`` (resolved, with versions and the dataset), ``index.json`` (a copy of the dataset's, so that the run predicts
without it), ``code/`` (the user's own task), ``metrics.jsonl`` (a record for each logged step and each evaluation),
``events.jsonl`` (what ran where and when), ``checkpoints/``, and when it is finished ``result.json``, ``evaluation.json`` and
``report.html``; ``attempts.jsonl`` (what the controller did), ``tracking.jsonl`` (what happened to its trackers),
``lease.json`` (the driver) and the files of `heliostat.workloads.run.signals`.
"""

import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pydantic
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from heliostat.config import Config, differences, to_yaml
from heliostat.environment import DATASETS
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.wording import counted
from heliostat.workloads.config import CHANGEABLE, LENGTH, TrainConfig, current_task
from heliostat.workloads.run.signals import STOP

if TYPE_CHECKING:
    from heliostat.datasets import Dataset, Index

CONFIG, METRICS, EVENTS, CHECKPOINTS = "config.yaml", "metrics.jsonl", "events.jsonl", "checkpoints"
RESULT, EVALUATION, REPORT = "result.json", "evaluation.json", "report.html"
SLOW, SLOW_OVER = "slow_worker", "slow_worker_over"
"""Events: from when on the others wait for a worker, and until when."""
MODELS = "models"
"""The folder of a storage that has its registry, see `heliostat.workloads.registry`."""
VERSIONED = ("heliostat", "ray", "torch", "pyarrow", "numpy")

NEWEST_ORDER: Literal[2] = 2
"""The version of the order of samples that new runs get."""

Numbers = dict[str, float]
Measured = dict[str, dict[str, float | None]]
"""Metrics by split; None stands for NaN and infinity."""


class DatasetRecord(Config):
    """The dataset that a run was trained on."""

    uri: str
    fingerprint: str


class RunRecord(Config):
    """``config.yaml``: the resolved config, and what it was run with."""

    config: TrainConfig
    hash: str
    order: Literal[1, 2] = 1
    """The version of the order of samples; the first versions did not record it."""
    lanes: int
    dataset: DatasetRecord
    versions: dict[str, str]
    git: str | None
    code: dict[str, str] = {}
    """The SHA-256 of each file that is kept in ``code/``, see `heliostat.workloads.run.code`."""
    tried: str | None = None
    """A hash of the code, config, versions and data with which the task was last tried before a start."""
    created: float


class Result(Config):
    """``result.json``: the result of a run; ``metrics`` are those of the best checkpoint on each split."""

    name: str
    run: str
    state: Literal["finished", "stopped", "diverged", "lost", "failed", "interrupted", "running"]
    """Of a run without ``result.json``, as `heliostat.workloads.run.so_far` finds it, also one of the last three."""
    step: int
    epoch: int
    best_step: int | None = None
    metrics: Measured = {}
    intervals: dict[str, list[float]] = {}
    """By test metric the least and the most of its 95 % interval, see `heliostat.workloads.tabular.bootstrap`."""
    baseline: dict[str, float | None] = {}
    """By test metric what a prediction that does not look at the sample reaches; empty where that is not known."""
    seconds: Numbers = {}
    """Wall time of each phase; ``total`` is that of the command."""
    goodput: Numbers = {}
    """Worker-seconds by what they were spent on, see `heliostat.workloads.run.goodput`."""
    cost: float | None = None
    """What the workers cost; None where no price is known."""
    message: str = ""
    already: bool = False
    """True if the run was finished before, and nothing was done."""

    @property
    def report(self) -> str:
        """The path or URI of the report."""
        return f"{self.run}/{REPORT}"


def check_free_name(folder: Folder) -> None:
    """Raises a UserError if a new run, sweep or script would be where the registry of a storage is."""
    if folder.name == MODELS:
        raise UserError(f"the name is {MODELS!r}, but {folder} is where the models of a storage are", "give another name")


def open_record(config: TrainConfig, folder: Folder, dataset: DatasetRecord, lanes: int) -> RunRecord:
    """The record of the run at ``folder``: the existing one, or a new one, not yet written.

    Raises:
        UserError: a run of that name exists with another config or dataset (the message has the difference), or cannot be read.
            Its length is not compared.
    """
    wanted = RunRecord(
        config=config,
        hash=config.hash,
        order=NEWEST_ORDER,
        lanes=lanes,
        dataset=dataset,
        versions={"python": platform.python_version(), **{name: _version(name) for name in VERSIONED}},
        git=_git_revision(),
        created=time.time(),
    )
    if not folder.exists(CONFIG):
        if (folder / CHECKPOINTS).names():
            raise UserError(
                f"{folder} has checkpoints, but no {CONFIG}", "restore it, or give this run another name (--set name=...)"
            )
        check_free_name(folder)
        return wanted
    found = read_record(folder)
    before, now = (each.model_dump(mode="json", exclude=CHANGEABLE | LENGTH) for each in (found.config, config))
    lines = differences(before, now)
    if found.dataset.fingerprint != dataset.fingerprint:
        lines.append(f"dataset: {found.dataset.fingerprint} before, {dataset.fingerprint} now")
    if lines:
        raise UserError(
            f"run {config.name!r} exists in {config.storage} with another config:\n    " + "\n    ".join(lines),
            "these keys cannot change: give this run another name (--set name=...; start_from takes the weights of the other), "
            "or delete the folder of the other",
        )
    if found.order == 1 and config.most_workers > found.lanes:
        raise UserError(
            f"workers is {config.workers}, but run {config.name!r}, which an earlier version started, has "
            f"{counted(found.lanes, 'lane')}",
            f"set workers to at most {found.lanes}, or give this run another name (--set name=...)",
        )
    return found.model_copy(update={"config": config, "hash": config.hash, "dataset": dataset})


def read_record(folder: Folder) -> RunRecord:
    """The record of an existing run.

    Raises:
        UserError: there is no run, or its config cannot be read.
    """
    if not folder.exists(CONFIG):
        raise UserError(f"{folder} is not a run: it has no {CONFIG}", "heliostat runs lists the runs")
    try:
        return RunRecord.model_validate(YAML(typ="safe", pure=True).load(folder.read(CONFIG).decode()))
    except (pydantic.ValidationError, YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}/{CONFIG} cannot be used: {reason}", "restore it, or delete the run") from None


def read_head(folder: Folder) -> tuple[str, int | None, float]:
    """The task, the steps of the config and the time of creation of a run; a list needs no more, and the whole takes 20 ms.

    Raises:
        UserError: see `read_record`.
    """
    text = folder.read(CONFIG).decode(errors="replace")
    found = {key: re.search(rf"^{key}: ?(.*)$", text, re.MULTILINE) for key in ("  task", "  steps", "created")}
    task, steps, created = (match[1] if match else None for match in found.values())
    if (
        task
        and re.fullmatch(r"[\w.:-]+", task)
        and re.fullmatch(r"\d*", steps or "")
        and re.fullmatch(r"\d+(\.\d+)?", created or "")
    ):
        return current_task(task), int(steps) if steps else None, float(created or 0)
    record = read_record(folder)
    return record.config.task, record.config.steps, record.created


def write_record(folder: Folder, record: RunRecord) -> None:
    """Writes ``config.yaml``, and deletes a request to stop."""
    update_record(folder, record)
    folder.delete(STOP)


def update_record(folder: Folder, record: RunRecord) -> None:
    """Writes ``config.yaml``."""
    folder.write(CONFIG, to_yaml(record.model_dump(mode="json")).encode())


def read_result(folder: Folder) -> Result | None:
    """The result of a run; None if it is not finished.

    Raises:
        UserError: it cannot be read.
    """
    if not folder.exists(RESULT):
        return None
    try:
        return Result.model_validate_json(folder.read(RESULT))
    except pydantic.ValidationError:
        raise UserError(f"{folder}/{RESULT} is damaged", "delete it; the same command writes it again") from None


def open_dataset(folder: Folder, record: RunRecord) -> "Dataset":
    """Opens the dataset that a run was trained on, also after its storage was moved as a whole.

    Raises:
        UserError: it is missing, or has changed.
    """
    # Here, so that a script for torchrun, which loads checkpoints with this module, does not import pyarrow.
    from heliostat.datasets import Dataset

    uri = record.dataset.uri
    if folder.is_local and not Folder.at(uri, folder.patience).exists():
        # The run is storage/NAME, a sweep's trial storage/SWEEP/trials/NAME.
        moved = (place / DATASETS / uri.rpartition("/")[2] for place in list(Path(folder.path).parents)[:3])
        uri = next((str(place) for place in moved if place.is_dir()), uri)
    dataset = Dataset.open(uri, folder.patience)
    if dataset.index.fingerprint != record.dataset.fingerprint:
        raise UserError(f"dataset {dataset.folder} is not the one that the run was trained on", "restore it")
    return dataset


def keep_index(folder: Folder, dataset: "Dataset") -> None:
    """Copies the index of a run's dataset to its folder, unless it is there."""
    from heliostat.datasets.index import INDEX

    if not folder.exists(INDEX):
        folder.write(INDEX, dataset.index.document())


def read_index(folder: Folder, record: RunRecord) -> "Index":
    """The index of the dataset that a run was trained on: the run's copy, or of an older run the dataset's own.

    Raises:
        UserError: the copy is damaged or of another dataset; without one, the dataset is missing, or has changed.
    """
    from heliostat.datasets.index import INDEX, Index

    if not folder.exists(INDEX):
        return open_dataset(folder, record).index
    index = Index.parse(folder.read(INDEX), str(folder))
    if index.fingerprint != record.dataset.fingerprint:
        raise UserError(f"{folder}/{INDEX} is not of the dataset that the run was trained on", "delete it")
    return index


def _version(package: str) -> str:
    if package == "heliostat":
        from heliostat import __version__

        return __version__
    return metadata.version(package)


def _git_revision() -> str | None:
    """The commit of the working directory, with ``+`` if it has changes; None outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd(), timeout=10)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
