"""Plans a run: resolves and checks its config before anything is started or written."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from heliostat import own_code
from heliostat.config import digest, validate
from heliostat.datasets import Dataset, Order, Order1, build
from heliostat.datasets.index import INDEX
from heliostat.datasets.sources import Source, find_source, open_source
from heliostat.environment import DATASETS
from heliostat.errors import NotWritable, UserError, collected, combined
from heliostat.folder import Folder, absolute, default_base, expanded, join
from heliostat.requirements import missing, parse, provide
from heliostat.workloads import task
from heliostat.workloads.config import TrainConfig, learning_rate
from heliostat.workloads.nodes import Nodes, capacity, resolve_resources
from heliostat.workloads.run import checkpoint, code
from heliostat.workloads.run.lease import Lease, hold
from heliostat.workloads.run.record import (
    CHECKPOINTS,
    CONFIG,
    NEWEST_ORDER,
    RESULT,
    DatasetRecord,
    Result,
    RunRecord,
    open_record,
    read_record,
    read_result,
    write_record,
)


@dataclass(frozen=True)
class Standing:
    """Where a run stands before its command does anything."""

    record: RunRecord
    total: int
    """Its steps."""
    finished: Result | None = None
    """The result of a run that has nothing left to do."""
    step: int | None = None
    """The step of its newest checkpoint; None if it is new, or has none yet."""
    exists: bool = False
    notes: tuple[str, ...] = ()
    """What the user should know: that it becomes longer, that its code has changed."""
    code: Mapping[str, bytes] = field(default_factory=dict)
    """The files of its task and of its source."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """The hashes of those that are kept with the run, by name."""


@dataclass(frozen=True)
class Plan:
    """A checked config with its URIs resolved; `commit` is the first method that writes."""

    config: TrainConfig
    uri: str
    dataset_uri: str
    """The dataset; the folder of datasets if only the job can tell, because the source is not on this machine."""
    source: Source | None
    """What the dataset will be built from; None if it exists, or if only the job can tell."""
    most_workers: int
    """The most workers that it can have: the config's, or as many as fit on the nodes."""
    elsewhere: bool = False
    """Whether its storage cannot be read from this machine."""
    nodes: Nodes | None = None
    """The nodes that it can have, if they are known."""
    storage_base: str | Path | None = None
    """What a relative path on storage is relative to; None for the default."""
    notes: list[str] = field(default_factory=list)
    """What the user should know before it starts; `commit` adds to them."""

    @property
    def total_steps(self) -> int | None:
        """The steps of the whole run; None before the dataset is built."""
        if self.config.steps or not Folder.at(self.dataset_uri, self.patience).exists(INDEX):
            return self.config.steps
        return steps_of(self.config, order_of(self.config, Dataset.open(self.dataset_uri, self.patience)))

    @property
    def patience(self) -> float:
        """Seconds for which its storage may be unavailable."""
        return self.config.storage_timeout

    @property
    def folder(self) -> Folder:
        """The run folder."""
        return Folder.at(self.uri, self.patience)

    @contextmanager
    def claim(self) -> Iterator[tuple[Lease, RunRecord, Result | None]]:
        """Holds the run's lease, and commits: the lease, the run's record, and its result if it is finished.

        Raises:
            UserError: see `commit`; another process drives the run.
            JobFailed: the lease was taken over by another process.
        """
        with hold(self.folder) as owner:
            new = not self.folder.exists(CONFIG)
            try:
                yield owner, *self.commit()
            except NotWritable:
                raise
            except UserError:
                # The user will change the config, perhaps under the same name.
                if new and not (self.folder / CHECKPOINTS).names():
                    self.folder.delete(CONFIG)
                    self.folder.delete(code.CODE)
                raise

    def commit(self) -> tuple[RunRecord, Result | None]:
        """Builds the dataset if needed and writes the run's record; returns it, and the result if the run is finished.

        Raises:
            UserError: storage cannot be written; see `standing`.
        """
        uri, patience = self.dataset_uri, self.patience
        dataset = build(self.source, uri, patience=patience) if self.source else Dataset.open(uri, patience)
        # Of a large source the columns are known only now.
        task.check(self.config.task, task.find(self.config.task), dataset.index.fields)
        standing = self.standing(dataset)
        if standing.finished:
            return standing.record, standing.finished
        self.notes.extend(standing.notes)
        # First: with the new length beside the old result, the run would pass for finished.
        self.folder.delete(RESULT)
        if not standing.exists or standing.record.code != standing.kept:
            code.keep(self.folder, standing.code)
        write_record(self.folder, standing.record)
        return standing.record, None

    def standing(self, dataset: Dataset) -> Standing:
        """Compares the config with the run of this name, if there is one; writes nothing.

        Raises:
            UserError: a run of this name has another config, or was longer; the dataset does not fit.
        """
        order = order_of(self.config, dataset)
        _check_dataset(self.config, order)
        notes = _small(self.config, order)
        data = DatasetRecord(uri=self.dataset_uri, fingerprint=dataset.index.fingerprint)
        record = open_record(self.config, self.folder, data, lanes_of(self.config))
        total = steps_of(self.config, order_of(self.config, dataset, record.order, record.lanes))
        files = code.own_files(self.config.task, self.config.dataset.source)
        new = record.model_copy(update={"code": own_code.hashes(files)})
        if not self.folder.exists(CONFIG):
            return Standing(new, total, notes=tuple(notes), code=files)
        old = read_record(self.folder).config
        before = steps_of(old, order_of(old, dataset, record.order, record.lanes))
        finished = _finished(self.config, old, total, before, read_result(self.folder))
        saved = checkpoint.all_checkpoints(self.folder)
        step = saved[-1].step if saved else None
        if total > before:
            notes.append(_longer(self.config, old, before, total, step or 0))
        if record.code and (different := code.changed(record.code, files)):
            notes.append(f"{', '.join(different)} has changed since the run was started; it continues with the new one")
        return Standing(new, total, finished, step, True, tuple(notes), files, record.code)


def _small(config: TrainConfig, order: Order) -> list[str]:
    if config.global_batch <= order.total:
        return []
    return [
        f"global_batch is {config.global_batch}, but the train split has {order.total} samples: each step is a whole epoch, "
        f"of {order.total}"
    ]


def _longer(config: TrainConfig, old: TrainConfig, before: int, total: int, step: int) -> str:
    """The note of a run that becomes longer: its learning rate is from now on that of a run of the new length."""
    was = learning_rate(step, before, old.optimizer)
    now = learning_rate(step, total, config.optimizer)
    return (
        f"the run is trained for longer: {total} steps instead of {before}; the learning rate follows the schedule of {total} "
        f"steps from step {step} on, where it is {now:.3g} instead of {was:.3g}"
    )


def _finished(config: TrainConfig, old: TrainConfig, total: int, before: int, result: Result | None) -> Result | None:
    """The result of a run if it has nothing left to do, for a config of ``total`` steps where it had ``before``.

    Raises:
        UserError: it has fewer steps now, or more that it would not make.
    """
    name = config.name
    if total < before:
        raise UserError(
            f"run {name!r} has {before} steps, and cannot be made shorter: {_length(config)} gives {total}",
            f"set {_length(old)} or more, or give this run another name (--set name=...)",
        )
    if result is None:
        return None
    stopped_early = result.step < before
    if stopped_early and config.early_stopping != old.early_stopping:
        return None
    if stopped_early and total > before:
        raise UserError(
            f"run {name!r} was ended by early_stopping at step {result.step} of {before}: with {total} it would end there, too",
            "set early_stopping to null, or to a larger patience",
        )
    return result.model_copy(update={"already": True}) if total == before or stopped_early else None


def _length(config: TrainConfig) -> str:
    return f"steps: {config.steps}" if config.steps else f"epochs: {config.epochs}"


def prepare(
    config: TrainConfig,
    nodes: Nodes | None = None,
    storage_base: str | Path | None = None,
    elsewhere: bool = False,
    variables: Mapping[str, str] | None = None,
    like: Plan | None = None,
) -> Plan:
    """Checks a config against the tasks, the data and, where they are known, the nodes.

    Args:
        config: what to run.
        nodes: this machine, or the nodes of a cluster at its limits, none if these are not known; None if it is not chosen.
        storage_base: the path or URI that a relative storage is relative to; by default the cluster's, else the working
            directory, or in a submitted job, whose working directory is deleted afterwards, the home directory.
        elsewhere: the storage cannot be read from this machine; the job itself checks what is in it.
        variables: those of the job, which paths in the config may have; by default this process's.
        like: a plan with this storage; if it has the same data, the source is not looked at again.

    Raises:
        UserError: the config is invalid; nothing has been written.
    """
    # The run's record has the list, so that its workers need no file for it.
    config = config.model_copy(update={"requirements": [each.text for each in parse(config.requirements)]})
    problems: list[UserError] = []
    storage = absolute(expanded(config.storage, variables, "storage"), storage_base or default_base())
    with collected(problems):
        cls = _task(config, elsewhere)
        validate(config.model, cls.Options, "model")
    with collected(problems):
        resources = resolve_resources(config.resources, config.least_workers, nodes, _shown(config))
        config = config.model_copy(update={"resources": resources, "storage": storage})
    with collected(problems):
        if like and like.config.dataset == config.dataset:
            built = not elsewhere and Folder.at(like.dataset_uri, config.storage_timeout).exists(INDEX)
            source, uri = None if built else like.source, like.dataset_uri
        else:
            source, uri = _dataset(config, storage, elsewhere, variables)
    if problems:
        raise combined(problems, "the config")
    if source:
        if fields := source.preview():
            task.check(config.task, cls, fields)
    elif not elsewhere:
        dataset = Dataset.open(uri, config.storage_timeout)
        task.check(config.task, cls, dataset.index.fields)
        _check_dataset(config, order_of(config, dataset))
    most = config.most_workers
    if nodes:
        most = min(most, capacity(nodes, {"CPU": config.resources.cpu, "GPU": int(config.resources.gpu)}))
    return Plan(config, join(storage, config.name), uri, source, most, elsewhere, nodes, storage_base)


def _shown(config: TrainConfig) -> str:
    return str(config.workers if isinstance(config.workers, int) else list(config.workers))


def _task(config: TrainConfig, elsewhere: bool) -> type[task.Task]:
    """The task of a config, whose requirements are checked, or on a cluster installed, before its module is imported."""
    if not elsewhere:
        provide(config.requirements)
    lacking = missing(config.requirements)
    try:
        return task.find(config.task)
    except UserError as error:
        if not lacking:
            raise
        fix = f"install here, too, what this check of the task imports: pip install {' '.join(lacking)}"
        raise UserError(error.what, fix) from None


def _dataset(
    config: TrainConfig, storage: str, elsewhere: bool, variables: Mapping[str, str] | None
) -> tuple[Source | None, str]:
    if config.dataset.path:
        path = expanded(config.dataset.path, variables, "dataset.path")
        return None, path if elsewhere else absolute(path, Path.cwd())
    name, options = config.dataset.source or "", config.dataset.options
    find_source(name, options)
    if elsewhere and isinstance(options.get("path"), str):
        options = {**options, "path": expanded(options["path"], variables, "dataset.options.path")}
        if is_absolute(options["path"]):
            return None, join(storage, DATASETS)
    source = open_source(name, options)
    uri = join(storage, f"{DATASETS}/{name.replace(':', '-')}-{digest(source.identity())[:8]}")
    return (None if not elsewhere and Folder.at(uri, config.storage_timeout).exists(INDEX) else source), uri


def is_absolute(path: str) -> bool:
    """Whether a path does not depend on the working directory: only a job can tell what a cluster has there."""
    return "://" in path or os.path.isabs(path)


ORDERS: dict[int, type[Order]] = {1: Order1, 2: Order}
"""The versions of the order of samples; a run keeps the one that it was started with."""


def lanes_of(config: TrainConfig, version: int = NEWEST_ORDER) -> int:
    """The lanes of a new run in an order of that version."""
    return config.lanes or ORDERS[version].default_lanes(config.global_batch)


def order_of(config: TrainConfig, dataset: Dataset, version: int = NEWEST_ORDER, lanes: int | None = None) -> Order:
    """The order in which a run reads the train split of its dataset; by default that of a new run."""
    rows = tuple(shard.rows for shard in dataset.index.splits["train"])
    lanes = lanes or lanes_of(config, version)
    return ORDERS[version](rows, dataset.index.fingerprint, config.seed, config.global_batch, lanes, config.drop_last)


def steps_of(config: TrainConfig, order: Order) -> int:
    """The steps of the whole run."""
    return config.steps or (config.epochs or 0) * order.epoch_steps


def _check_dataset(config: TrainConfig, order: Order) -> None:
    if order.epoch_steps == 0:
        raise UserError(
            f"global_batch is {config.global_batch}, but the train split has {order.total} samples and drop_last is set",
            f"set global_batch to at most {order.total}",
        )
