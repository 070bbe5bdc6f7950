"""Plans a run: resolves and checks its config before anything is started or written."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from heliostat import own_code
from heliostat.config import Config, digest, validate
from heliostat.datasets import Dataset, build
from heliostat.datasets.index import INDEX
from heliostat.datasets.inspection import inspect
from heliostat.datasets.sources import Source, find_source, open_source
from heliostat.environment import DATASETS
from heliostat.errors import NotWritable, UserError, collected, combined
from heliostat.folder import Folder, absolute, default_base, expanded, join
from heliostat.requirements import missing, parse, provide
from heliostat.workloads import callback, task
from heliostat.workloads.config import OF_BATCHES, TrainConfig
from heliostat.workloads.nodes import Nodes, capacity, resolve_resources
from heliostat.workloads.optimization.optimizers import check_options
from heliostat.workloads.optimization.schedule import check_schedule
from heliostat.workloads.run import checkpoint, code
from heliostat.workloads.run.lease import Lease, hold
from heliostat.workloads.run.length import check_dataset, lanes_of, longer, order_of, result_of, small, steps_of
from heliostat.workloads.run.record import (
    CHECKPOINTS,
    CONFIG,
    RESULT,
    DatasetRecord,
    Result,
    RunRecord,
    keep_index,
    open_record,
    read_record,
    read_result,
    write_record,
)
from heliostat.workloads.tracking import choice

T = TypeVar("T")


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
    """The files of the user's own code that it uses."""
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

    def dataset(self) -> Dataset:
        """The dataset, which is built if it does not exist.

        Raises:
            UserError: storage cannot be written, or the source cannot be read.
        """
        if self.source:
            return build(self.source, self.dataset_uri, patience=self.patience)
        return Dataset.open(self.dataset_uri, self.patience)

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
                    self.folder.delete(INDEX)
                raise

    def commit(self) -> tuple[RunRecord, Result | None]:
        """Builds the dataset if needed and writes the run's record; returns it, and the result if the run is finished.

        Raises:
            UserError: storage cannot be written; see `standing`.
        """
        dataset = self.dataset()
        # Of a large source the columns are known only now.
        task.check(self.config.task, task.find(self.config.task), dataset.index.fields, dataset.index.signature)
        standing = self.standing(dataset)
        if standing.finished:
            return standing.record, standing.finished
        self.notes.extend(standing.notes)
        # First: with the new length beside the old result, the run would pass for finished.
        self.folder.delete(RESULT)
        if not standing.exists or standing.record.code != standing.kept:
            code.keep(self.folder, standing.code)
        keep_index(self.folder, dataset)
        write_record(self.folder, standing.record)
        return standing.record, None

    def standing(self, dataset: Dataset) -> Standing:
        """Compares the config with the run of this name, if there is one; writes nothing.

        Raises:
            UserError: a run of this name has another config, or was longer; the dataset does not fit.
        """
        order = order_of(self.config, dataset)
        check_dataset(self.config, order)
        notes = small(self.config, order)
        data = DatasetRecord(uri=self.dataset_uri, fingerprint=dataset.index.fingerprint)
        record = open_record(self.config, self.folder, data, lanes_of(self.config))
        total = steps_of(self.config, order_of(self.config, dataset, record.order, record.lanes))
        files = code.own_files(self.config.own_code)
        new = record.model_copy(update={"code": own_code.hashes(files)})
        if not self.folder.exists(CONFIG):
            notes += [finding.text for finding in inspect(dataset)]
            return Standing(new, total, notes=tuple(notes), code=files)
        old = read_record(self.folder).config
        before = steps_of(old, order_of(old, dataset, record.order, record.lanes))
        finished = result_of(self.config, old, total, before, read_result(self.folder))
        saved = checkpoint.all_checkpoints(self.folder)
        step = saved[-1].step if saved else None
        if total > before:
            notes.append(longer(self.config, old, before, total, step or 0))
        # Files that only one has are those of callbacks and so on, which may change.
        different = [name for name in code.changed(record.code, files) if name in record.code and name in files]
        if record.code and different:
            notes.append(f"{', '.join(different)} has changed since the run was started; it continues with the new one")
        return Standing(new, total, finished, step, True, tuple(notes), files, record.code)


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
    cls: type[task.Task] | None = None
    storage = absolute(expanded(config.storage, variables, "storage"), storage_base or default_base())
    with collected(problems):
        cls = _imported(config, elsewhere, lambda: task.find(config.task))
        validate(config.model, cls.Options, "model")
    with collected(problems):
        _imported(config, elsewhere, lambda: check_options(config.optimizer))
    with collected(problems):
        _imported(config, elsewhere, lambda: check_schedule(config.optimizer))
    with collected(problems):
        _imported(config, elsewhere, lambda: callback.check_callbacks(config.callbacks))
    if cls and task.by_rounds(cls):
        problems.extend(_not_of_rounds(config))
        if config.resources.gpu == "auto":
            config = config.model_copy(update={"resources": config.resources.model_copy(update={"gpu": 0})})
    with collected(problems):
        resources = resolve_resources(config.resources, config.least_workers, nodes, _shown(config))
        config = config.model_copy(update={"resources": resources, "storage": storage})
    here = nodes is not None and not elsewhere
    tracking = choice.resolved(config.tracking, storage_base or default_base(), here, problems)
    config = config.model_copy(update={"tracking": tracking})
    problems.extend(choice.check_notify(config.notify) if here else ())
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
            task.check(config.task, cls, fields, source.signature())
    elif not elsewhere:
        dataset = Dataset.open(uri, config.storage_timeout)
        task.check(config.task, cls, dataset.index.fields, dataset.index.signature)
        check_dataset(config, order_of(config, dataset))
    most = config.most_workers
    if nodes:
        most = min(most, capacity(nodes, {"CPU": config.resources.cpu, "GPU": int(config.resources.gpu)}))
    return Plan(config, join(storage, config.name), uri, source, most, elsewhere, nodes, storage_base)


def _shown(config: TrainConfig) -> str:
    return str(config.workers if isinstance(config.workers, int) else list(config.workers))


def _not_of_rounds(config: TrainConfig) -> Iterator[UserError]:
    """What a run by rounds over the whole train split cannot use, and what to do."""
    for key, fix in OF_BATCHES.items():
        value = getattr(config, key)
        # Of a task of the user's own, global_batch must still be a multiple of the workers.
        if value != TrainConfig.model_fields[key].default and (key != "global_batch" or config.by_rounds):
            yield UserError(f"{key} is {_given(value)}, but each step of task {config.task} is a round over all samples", fix)
    if config.resources.gpu not in ("auto", 0):
        yield UserError(f"resources.gpu is {config.resources.gpu}, but task {config.task} trains on CPUs", "set it to 0")


def _given(value: object) -> str:
    if not isinstance(value, Config):
        return f"{value}"
    defaults, given = type(value)().model_dump(), value.model_dump(exclude_unset=True)
    return ", ".join(f"{key} {each}" for key, each in given.items() if each != defaults[key])


def _imported(config: TrainConfig, elsewhere: bool, check: Callable[[], T]) -> T:
    """What a check of a config's code finds; the requirements are checked, or on a cluster installed, before it is imported."""
    if not elsewhere:
        provide(config.requirements)
    lacking = missing(config.requirements)
    try:
        return check()
    except UserError as error:
        if not lacking:
            raise
        fix = f"install here, too, what this check of your code imports: pip install {' '.join(lacking)}"
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
