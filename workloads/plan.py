"""Plans a run: resolves and checks its config before anything is started or written."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from heliostat.config import digest, validate
from heliostat.datasets import Dataset, Order, Order1, build
from heliostat.datasets.index import INDEX
from heliostat.datasets.sources import Source, open_source
from heliostat.environment import DATASETS
from heliostat.errors import NotWritable, UserError
from heliostat.folder import Folder, absolute, default_base, join
from heliostat.workloads import task
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.nodes import Nodes, capacity, resolve_resources
from heliostat.workloads.run.lease import Lease, hold
from heliostat.workloads.run.record import (
    CHECKPOINTS,
    CONFIG,
    NEWEST_ORDER,
    DatasetRecord,
    Result,
    RunRecord,
    open_record,
    read_result,
    write_record,
)


@dataclass(frozen=True)
class Plan:
    """A checked config with its URIs resolved; `commit` is the first method that writes."""

    config: TrainConfig
    uri: str
    dataset_uri: str
    source: Source | None
    """What the dataset will be built from; None if it exists."""
    most_workers: int
    """The most workers that it can have: the config's, or as many as fit on the nodes."""
    elsewhere: bool = False
    """Whether its storage cannot be read from this machine."""
    nodes: Nodes | None = None
    """The nodes that it can have, if they are known."""

    @property
    def total_steps(self) -> int | None:
        """The steps of the whole run; None before the dataset is built."""
        if self.config.steps or not Folder.at(self.dataset_uri).exists(INDEX):
            return self.config.steps
        return steps_of(self.config, order_of(self.config, Dataset.open(self.dataset_uri)))

    @property
    def oversized(self) -> str:
        """What a step is, where the train split has fewer samples than the global batch; else, or if it is not built, empty."""
        if self.elsewhere or not Folder.at(self.dataset_uri).exists(INDEX):
            return ""
        samples, batch = Dataset.open(self.dataset_uri).index.rows("train"), self.config.global_batch
        return (
            "" if samples >= batch else f"global_batch is {batch}, but the train split has {samples}: each step has all of them"
        )

    @property
    def folder(self) -> Folder:
        """The run folder."""
        return Folder.at(self.uri)

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
                raise

    def commit(self) -> tuple[RunRecord, Result | None]:
        """Builds the dataset if needed and writes the run's record; returns it, and the result if the run is finished.

        Raises:
            UserError: storage cannot be written; a run of this name has another config; the dataset does not fit.
        """
        dataset = build(self.source, self.dataset_uri) if self.source else Dataset.open(self.dataset_uri)
        _check_dataset(self.config, dataset)
        data = DatasetRecord(uri=self.dataset_uri, fingerprint=dataset.index.fingerprint)
        record = open_record(self.config, self.folder, data, lanes_of(self.config))
        if finished := read_result(self.folder):
            return record, finished.model_copy(update={"already": True})
        write_record(self.folder, record)
        return record, None


def prepare(
    config: TrainConfig, nodes: Nodes | None = None, storage_base: str | Path | None = None, elsewhere: bool = False
) -> Plan:
    """Checks a config against the tasks, the data and, where they are known, the nodes.

    Args:
        config: what to run.
        nodes: this machine, or the nodes of a cluster at its limits, none if these are not known; None if it is not chosen.
        storage_base: the path or URI that a relative storage is relative to; by default the cluster's, else the working
            directory, or in a submitted job, whose working directory is deleted afterwards, the home directory.
        elsewhere: the storage cannot be read from this machine; the job itself checks what is in it.

    Raises:
        UserError: the config is invalid; nothing has been written.
    """
    cls = task.find(config.task)
    validate(config.model, cls.Options, "model")
    resources = resolve_resources(config.resources, config.least_workers, nodes, _shown(config))
    config = config.model_copy(update={"resources": resources})
    storage = absolute(config.storage, storage_base or default_base())
    config = config.model_copy(update={"storage": storage})
    source, uri = _dataset(config, storage, elsewhere)
    if source:
        task.check(config.task, cls, source.fields)
    elif not elsewhere:
        dataset = Dataset.open(uri)
        task.check(config.task, cls, dataset.index.fields)
        _check_dataset(config, dataset)
    most = config.most_workers
    if nodes:
        most = min(most, capacity(nodes, {"CPU": config.resources.cpu, "GPU": int(config.resources.gpu)}))
    return Plan(config, join(storage, config.name), uri, source, most, elsewhere, nodes)


def _shown(config: TrainConfig) -> str:
    return str(config.workers if isinstance(config.workers, int) else list(config.workers))


def _dataset(config: TrainConfig, storage: str, elsewhere: bool) -> tuple[Source | None, str]:
    if config.dataset.path:
        return None, absolute(config.dataset.path, Path.cwd())
    name = config.dataset.source or ""
    source = open_source(name, config.dataset.options)
    uri = join(storage, f"{DATASETS}/{name}-{digest(source.identity())[:8]}")
    return (None if not elsewhere and Folder.at(uri).exists(INDEX) else source), uri


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


def _check_dataset(config: TrainConfig, dataset: Dataset) -> None:
    order = order_of(config, dataset)
    if order.epoch_steps == 0:
        raise UserError(
            f"global_batch is {config.global_batch}, but the train split has {order.total} samples and drop_last is set",
            f"set global_batch to at most {order.total}",
        )
