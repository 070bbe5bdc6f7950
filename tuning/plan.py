"""The plan of a sweep, checked before anything is started or written."""

import dataclasses
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from heliostat.config import differences, digest, nearest, to_yaml, validate
from heliostat.console import err
from heliostat.datasets import Dataset, build
from heliostat.datasets.index import INDEX
from heliostat.errors import UserError, collected
from heliostat.folder import Folder, join
from heliostat.tuning.config import Mode, SweepConfig, base_of
from heliostat.tuning.cost import most_expensive, trial_capacity
from heliostat.tuning.feasibility import check_ends, check_mostly_possible
from heliostat.tuning.record import SWEEP, TRIALS, SweepRecord, read_sweep
from heliostat.tuning.space import Params, assign, check_conditions, draw, sample
from heliostat.tuning.trials import trial_name
from heliostat.workloads import task
from heliostat.workloads.config import BETTER, Better, TrainConfig, without_added
from heliostat.workloads.nodes import Nodes
from heliostat.workloads.plan import Plan, prepare
from heliostat.workloads.run.length import lanes_of
from heliostat.workloads.run.record import (
    CONFIG,
    NEWEST_ORDER,
    DatasetRecord,
    RunRecord,
    check_free_name,
    open_record,
    read_record,
)
from heliostat.workloads.training.preflight import Tried, try_task

MEASURED: dict[str, Mode] = {"seconds": "min", "parameters": "min"}
"""The metrics that every trial measures in addition to the task's own."""
FIXED = ("name", "storage", "resources", "max_failures")
"""Keys that cannot be searched."""
CONTINUED = tuple(
    f"optimizer.{key}"
    for key in ("lr", "weight_decay", "beta1", "beta2", "warmup_steps", "final_lr", "clip_norm", "clip_value")
)
"""Keys that may change during a run: the state of the optimizer stays what it is."""
TRIES = 3
"""Points of the space that are tried before the first trial, until one can be trained."""
AT_ONCE = 8
"""Concurrent trials where the maximum size of the cluster is not known."""


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep with its paths resolved; nothing is written before `check` and `commit`."""

    config: SweepConfig
    base: dict[str, Any]
    """The train config that all trials start from, as plain data."""
    train: Plan
    """The plan of that config: dataset, resources of each worker."""
    uri: str
    slots: int
    """Concurrent trials."""
    workers: int
    """Workers of the largest trial."""
    nodes: Nodes | None
    storage_base: str | Path | None
    elsewhere: bool
    variables: Mapping[str, str] | None = None
    """Those of the job, see `heliostat.workloads.plan.prepare`."""

    @property
    def folder(self) -> Folder:
        """The sweep's folder."""
        return Folder.at(self.uri, self.train.patience)

    @cached_property
    def objectives(self) -> dict[str, Mode]:
        """Metric -> mode."""
        return _objectives(self.config, task.find(self.train.config.task), self.train.config.metric)

    @property
    def metric(self) -> str:
        """The first objective, which schedulers compare."""
        return next(iter(self.objectives))

    @property
    def mode(self) -> Mode:
        return self.objectives[self.metric]

    @property
    def limits(self) -> dict[str, Any]:
        """The limits that end the sweep."""
        return self.config.limits

    def trial(self, number: int, params: Params) -> Plan:
        """The plan of a trial: a run in the sweep's folder.

        Raises:
            UserError: the values do not fit together.
        """
        config = validate({**assign(self.base, params), "name": trial_name(number)}, TrainConfig)
        plan = prepare(config, self.nodes, self.storage_base, self.elsewhere, self.variables, self.train)
        config = plan.config.model_copy(update={"storage": join(self.uri, TRIALS)})
        if self.config.scheduler.kind == "pbt":
            config = config.model_copy(update={"checkpoint_every": config.evaluate_every})
        return dataclasses.replace(plan, config=config, uri=join(self.uri, f"{TRIALS}/{config.name}"))

    def try_task(self) -> None:
        """Try the task on a few samples of the dataset, which exists, before any trial starts.

        Raises:
            UserError: the task cannot be trained, or does not report the sweep's metric.
        """
        if tried := self._tried.metrics:
            _check_metrics(self.config.metric, self.train.config, tried)

    @cached_property
    def _tried(self) -> Tried:
        """That of the first of a few random points that can be trained; one that cannot is a failed trial."""
        dataset, source = Dataset.open(self.train.dataset_uri, self.train.patience), random.Random(self.config.seed)
        errors: list[UserError] = []
        for _ in range(TRIES):
            params = sample(self.config.space, self.base, lambda _, parameter: draw(parameter, source))
            with collected(errors):
                config = validate(assign(self.base, params), TrainConfig)
                return try_task(config.model_copy(update={"resources": self.train.config.resources}), dataset)
        raise errors[0]

    def check(self) -> SweepRecord | None:
        """Check what needs the dataset, which is built if it does not exist; nothing else is written.

        Returns:
            The record of the existing sweep that this one resumes.

        Raises:
            UserError: storage cannot be written; another sweep has the name; the task does not report the metric.
        """
        uri, patience = self.train.dataset_uri, self.train.patience
        dataset = build(self.train.source, uri, patience=patience) if self.train.source else Dataset.open(uri, patience)
        # Of a large source the columns are known only now.
        task.check(self.train.config.task, task.find(self.train.config.task), dataset.index.fields, dataset.index.signature)
        self.try_task()
        found = read_sweep(self.folder)
        if found and found.config.identity != self.config.identity:
            lines = "\n    ".join(differences(found.config.identity, self.config.identity))
            raise UserError(
                f"sweep {self.config.name!r} exists in {self.folder} with another config:\n    {lines}",
                "choose another name (--set name=...), or delete that folder",
            )
        return found

    def commit(self) -> "RecordMaker":
        """Claim the sweep's folder.

        Raises:
            UserError: see `check`.
        """
        found = self.check()
        record = SweepRecord(
            config=self.config, hash=self.config.hash, objectives=self.objectives,
            order=found.order if found else NEWEST_ORDER, created=found.created if found else time.time(),
        )  # fmt: skip
        self.folder.write(SWEEP, to_yaml(record.model_dump(mode="json", exclude_none=True)).encode())
        return RecordMaker(self, record.order)


class RecordMaker:
    """Makes the run record of each trial; each dataset is opened once.

    All trials of a sweep learn the same data: a sweep that is resumed keeps the datasets of its trials, where a table is read
    in another way now.

    Raises:
        UserError: the dataset of the sweep's trials is lost, and is another one now.
    """

    def __init__(self, plan: SweepPlan, order: int) -> None:
        self._order = order
        self._datasets: dict[str, DatasetRecord] = {}
        self._before = _datasets_of_trials(plan)
        config = plan.train.config
        self._template = open_record(config, plan.folder / TRIALS / "none", self._dataset(plan.train), lanes_of(config))

    def record(self, plan: Plan) -> RunRecord:
        """The content of ``config.yaml`` of a trial."""
        return self._template.model_copy(update={
            "config": plan.config, "hash": plan.config.hash,
            "order": self._order, "lanes": lanes_of(plan.config, self._order),
            "dataset": self._dataset(plan), "created": time.time(),
        })  # fmt: skip

    def _dataset(self, plan: Plan) -> DatasetRecord:
        if plan.dataset_uri not in self._datasets:
            before = self._before.get(plan.dataset_uri)
            kept = before is not None and Folder.at(before.uri, plan.patience).exists(INDEX)
            self._datasets[plan.dataset_uri] = self._kept(plan, before) if before and kept else self._newest(plan, before)
        return self._datasets[plan.dataset_uri]

    @staticmethod
    def _kept(plan: Plan, before: DatasetRecord) -> DatasetRecord:
        """The dataset of the trials, also if there is another one now, which is said."""
        if before.uri != plan.dataset_uri and Folder.at(plan.dataset_uri, plan.patience).exists(INDEX):
            now = Dataset.open(plan.dataset_uri, plan.patience).index.fingerprint
            if now != before.fingerprint:
                err.print(
                    f"the data has changed since this sweep was started, or is read in another way now ({now} in "
                    f"{plan.dataset_uri}): so that its trials can be compared, all learn the dataset of before "
                    f"({before.fingerprint} in {before.uri}); for the new one, give the sweep another name (--set name=...)",
                    highlight=False, markup=False, soft_wrap=True,
                )  # fmt: skip
        return before

    @staticmethod
    def _newest(plan: Plan, before: DatasetRecord | None) -> DatasetRecord:
        uri, patience = plan.dataset_uri, plan.patience
        dataset = build(plan.source, uri, patience=patience) if plan.source else Dataset.open(uri, patience)
        found = DatasetRecord(uri=plan.dataset_uri, fingerprint=dataset.index.fingerprint)
        if before and before.fingerprint != found.fingerprint:
            raise UserError(
                f"the trials of this sweep have another dataset ({before.fingerprint} in {before.uri}, which is gone) than "
                f"it has now ({found.fingerprint}), so that they cannot be compared",
                "give the sweep another name (--set name=...)",
            )
        return found


def _datasets_of_trials(plan: SweepPlan) -> dict[str, DatasetRecord]:
    """The datasets of the trials that exist, by the URI that each has now."""
    trials, found = plan.folder / TRIALS, dict[str, DatasetRecord]()
    searched = any(name.partition(".")[0] == "dataset" for name in plan.config.space)
    uris: dict[str, str] = {}
    for name in sorted(trials.names()):
        if not (trials / name).exists(CONFIG):
            continue
        record = read_record(trials / name)
        if not searched:
            return {plan.train.dataset_uri: record.dataset}
        key = record.config.dataset.model_dump_json()
        if key not in uris:
            config = record.config.model_copy(update={"storage": plan.train.config.storage})
            uris[key] = prepare(config, None, plan.storage_base, plan.elsewhere, plan.variables).dataset_uri
        found.setdefault(uris[key], record.dataset)
    return found


def plan_sweep(
    config: SweepConfig,
    nodes: Nodes | None = None,
    storage_base: str | Path | None = None,
    elsewhere: bool = False,
    variables: Mapping[str, str] | None = None,
    tries: bool = True,
) -> SweepPlan:
    """Check a sweep against the task, the data and, where they are known, the resources.

    Args:
        config: what to search.
        nodes: this machine, or the nodes of a cluster at its limits, none if these are not known; None if it is not chosen.
        storage_base: what a relative storage is relative to, see `heliostat.workloads.plan.prepare`.
        elsewhere: the storage cannot be seen from here.
        variables: those of the job, see `heliostat.workloads.plan.prepare`.
        tries: whether the task is tried on a few samples, if the dataset exists.

    Raises:
        UserError: the config is wrong; nothing has been written.
    """
    base = base_of(config)
    base["storage"] = config.storage or base.get("storage") or "runs"
    if base.get("start_from") or any(name.partition(".")[0] == "start_from" for name in config.space):
        raise UserError(
            "start_from is set, but the trials of a sweep start from new weights",
            "remove it; the task's model() can load weights",
        )
    check_conditions(config.space, base)
    _check_keys(config)
    train = prepare(validate(base, TrainConfig, "train"), nodes, storage_base, elsewhere, variables)
    workers = max([train.most_workers, *(_most(value) for value in _values(config, "workers"))])
    check_ends(config, base, nodes)
    config = config.model_copy(update={"tracking": train.config.tracking, "notify": train.config.notify})
    each = train.config.resources
    there = trial_capacity(nodes, float(each.cpu), float(each.gpu), workers) if nodes else config.concurrency or AT_ONCE
    slots = min(n for n in (config.concurrency, config.trials, max(there, 1)) if n)
    plan = SweepPlan(
        config, base, train, join(train.config.storage, config.name), slots, workers, nodes, storage_base, elsewhere, variables
    )
    if config.scheduler.kind == "pbt" and workers > 1:
        raise UserError(f"workers is {workers}, but scheduler pbt needs trials with one worker", "set train.workers to 1")
    if tries and not elsewhere and not train.source:
        plan.try_task()
    if config.budget and most_expensive(nodes, float(each.cpu), float(each.gpu)) is None:
        raise UserError(f"budget is {config.budget:g}, but the nodes here have no prices", "set seconds, or use --on PROFILE")
    objectives = plan.objectives
    if workers > 1 and "parameters" in objectives:
        what = f"workers is {workers}, but parameters, an objective, is measured by trials with one worker only"
        raise UserError(what, "set train.workers to 1, or choose another metric")
    if elsewhere or not plan.folder.exists(SWEEP):  # one that is resumed may have started before this was checked
        check_free_name(plan.folder)
        check_mostly_possible(config, base, nodes)
    return plan


def key_of(plan: Plan) -> str:
    """A hash that is equal for trials with the same config."""
    excluded = {"name", "storage", "report", "requirements", "tracking", "notify"}
    # Without the keys that came later, where they are not set, so that those in older journals stay equal.
    data = without_added(plan.config, plan.config.model_dump(mode="json", exclude=excluded))
    later = {key: TrainConfig.model_fields[key].default for key in ("start_from", "find_unused_parameters", "sync_batchnorm")}
    return digest({key: value for key, value in data.items() if key not in later or value != later[key]})


def _most(workers: Any) -> int:
    return max(workers) if isinstance(workers, list | tuple) else int(workers)


def _values(config: SweepConfig, key: str) -> list[Any]:
    return config.space[key].ends if key in config.space else []


def _check_keys(config: SweepConfig) -> None:
    for name in config.space:
        if name.partition(".")[0] in FIXED:
            raise UserError(
                f"space.{name} is searched, but {name} does not change what a trial learns",
                f"remove it, or set train.{name}",
            )
        if config.scheduler.kind == "pbt" and not (name in CONTINUED or name.endswith("dropout")):
            raise UserError(
                f"space.{name} is searched, but scheduler pbt changes keys during a run, and {name} cannot change during a run",
                f"search {', '.join(CONTINUED)} or a dropout, or use another scheduler",
            )


def _objectives(config: SweepConfig, cls: type[task.Task], trained: str | Mapping[str, Better] | None) -> dict[str, Mode]:
    """The sweep's metrics with their modes: those of its config, else what decides in the config of a run, else the task's."""
    if isinstance(config.metric, dict):
        return dict(config.metric)
    given: dict[str, Better] = dict(trained) if isinstance(trained, Mapping) else {}
    metric = config.metric or next(iter(given), None) or (trained if isinstance(trained, str) else cls.metric)
    better = {**BETTER, cls.metric: cls.better, **given}
    modes: dict[str, Mode] = {name: "max" if each == "higher" else "min" for name, each in better.items()}
    mode = config.mode or {**MEASURED, **modes}.get(metric)
    if mode is None:
        raise UserError(
            f"mode is missing, and the task does not define whether a higher {metric} is better", "set mode: max, or mode: min"
        )
    return {metric: mode}


def _check_metrics(metric: str | Mapping[str, Mode] | None, config: TrainConfig, reported: Collection[str]) -> None:
    """Raise a UserError if the task does not report a metric, or reports one that every trial measures itself."""
    wanted = [metric] if isinstance(metric, str) else list(metric or [])
    for name in wanted:
        if name in MEASURED and name in reported:
            raise UserError(
                f"metric is {name!r}, which task {config.task} reports, but each trial measures {name}, too",
                "give the task's metric another name",
            )
        if name not in (*reported, *MEASURED):
            raise UserError(
                f"metric is {name!r}, which task {config.task} does not report", nearest(name, [*reported, *MEASURED])
            )
