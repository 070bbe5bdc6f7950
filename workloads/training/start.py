"""What comes before the workers of a run: its task is tried, and the weights that it starts from are loaded."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from heliostat.config import digest
from heliostat.console import err
from heliostat.datasets import Dataset, build
from heliostat.datasets.signature import Signature
from heliostat.datasets.sources import Source, TooLarge
from heliostat.errors import HeliostatError, UserError
from heliostat.folder import default_base
from heliostat.workloads.plan import Plan, Standing, is_absolute
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.record import CHECKPOINTS, RunRecord, update_record
from heliostat.workloads.task import Task
from heliostat.workloads.training.groups import check_columns
from heliostat.workloads.training.preflight import try_pretrained, try_task
from heliostat.workloads.training.weights import load_weights, read_weights, write_first

SMALL = 64 << 20
"""Bytes of files up to which a dry run builds a dataset, in a temporary folder, to try the task on it."""


def begin(plan: Plan, record: RunRecord, tries: bool = True) -> RunRecord:
    """Tries the task of a run that has been committed, unless the same code was tried for it before; prints the notes.

    Without ``tries``, only a task with weights to start from is tried, as these are loaded into it.

    Returns:
        The record, with what was tried.

    Raises:
        UserError: the task cannot be trained, or the weights that it starts from do not fit.
    """
    tried = digest([record.config.model_dump(mode="json"), record.code, record.versions, record.dataset.fingerprint])
    new = not checkpoint.all_checkpoints(plan.folder)
    starts = record.config.start_from is not None and new
    if (tries and record.tried != tried) or starts:
        _begin(plan, starts, new)
        record = record.model_copy(update={"tried": tried})
        update_record(plan.folder, record)
    elif not tries:
        check_columns(Dataset.open(plan.dataset_uri, plan.patience).index, record.config)
    for note in plan.notes:
        err.print(f"heliostat: {note}", highlight=False, markup=False, soft_wrap=True)
    return record


def _begin(plan: Plan, starts: bool, new: bool) -> None:
    try:
        plan.notes.extend(_try(plan, Dataset.open(plan.dataset_uri, plan.patience), new, partial(write_first, plan.folder)))
    except HeliostatError:
        if starts:
            plan.folder.delete(CHECKPOINTS)
        raise
    if starts and not checkpoint.all_checkpoints(plan.folder):
        raise UserError(
            f"the weights of start_from could not be loaded: {plan.notes[-1]}", "start it on a machine with more memory"
        )


@dataclass(frozen=True)
class Preview:
    """What a command would do."""

    standing: Standing | None
    """None where it cannot be known here."""
    notes: tuple[str, ...]
    signature: Signature | None = None
    """Of a table that has been read, what its columns are."""


def preview(plan: Plan) -> Preview:
    """What `Plan.commit` and `begin` would find, for a dry run: writes nothing but a temporary dataset.

    Raises:
        UserError: what they would raise.
    """
    with tempfile.TemporaryDirectory(prefix="heliostat-dry-run-") as scratch:
        dataset, why = _dataset(plan, scratch)
        if dataset is None:
            return Preview(None, (f"the task has not been tried: {why}",))
        if plan.elsewhere:
            return Preview(None, _try(plan, dataset, new=False), dataset.index.signature)
        standing = plan.standing(dataset)
        notes = () if standing.finished else _try(plan, dataset, new=standing.step is None)
        return Preview(standing, (*standing.notes, *notes), dataset.index.signature)


def _dataset(plan: Plan, scratch: str) -> tuple[Dataset | None, str]:
    """The dataset, built in ``scratch`` if it does not exist; or why there is none."""
    if plan.elsewhere and plan.source is None and (not plan.config.dataset.path or is_absolute(plan.dataset_uri)):
        return None, "its data is on the cluster, and the job tries it there"
    if plan.source is None:
        return Dataset.open(plan.dataset_uri, plan.patience), ""
    if (size := _size(plan.source)) > SMALL:
        return None, f"its data, {size >> 20} MB, is not built yet (heliostat dataset build)"
    plan.source.limit = SMALL
    try:
        return build(plan.source, scratch), ""
    except TooLarge:
        return None, f"its data, more than {SMALL >> 20} MB, is not built yet (heliostat dataset build)"


def _size(source: Source) -> int:
    return sum(file.size for file in source.files())


def _try(plan: Plan, dataset: Dataset, new: bool, loaded: Callable[[nn.Module], None] = lambda model: None) -> tuple[str, ...]:
    """Tries the task, of a ``new`` run with the weights that it starts from; returns the notes."""
    start = plan.config.start_from

    def load(task: Task, model: nn.Module) -> list[str]:
        said = try_pretrained(plan.config, task, model) if new else []
        if start is None or not new:
            return said
        said += load_weights(model, read_weights(start, task, plan.storage_base or default_base()), start.strict)
        loaded(model)
        return said

    return try_task(plan.config, dataset, load).notes
