"""Adds the model of a run to the registry."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heliostat.config import digest
from heliostat.datasets.index import SPLITS, Index
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.export.export import export
from heliostat.workloads.export.formats import of_trees
from heliostat.workloads.inference import Trained, load_run
from heliostat.workloads.registry.registry import ALIASES, Registry, parsed
from heliostat.workloads.registry.version import Data, Manifest, Version, checksum_of
from heliostat.workloads.run.checkpoint import all_checkpoints
from heliostat.workloads.run.lease import Observer
from heliostat.workloads.run.record import CONFIG, Measured, read_result
from heliostat.workloads.task import Task

Intervals = dict[str, list[float]]


def add(
    registry: Registry, run: Folder | str | Path, name: str, to: str | None = None, alias: str = "", why: str = ""
) -> Version:
    """Exports the best checkpoint of a run, and adds it to a registry as a version; the same one is added once.

    Args:
        registry: to add it to.
        run: its folder, or its path or URI.
        name: of the model.
        to: the format, see `heliostat.workloads.export.export.export`; by default ``lightgbm`` for trees, else ``torch``.
        alias: ``candidate``, ``champion`` or empty.
        why: for the log.

    Raises:
        UserError: see `load_run` and `export`; the run is still driven, or its best checkpoint cannot be used; ``name`` or
            ``alias`` is invalid. Nothing is added then.
    """
    _check(name, alias)
    registry.names()  # raises where no models can be
    folder = run if isinstance(run, Folder) else Folder.at(run)
    trained = load_run(folder)
    finished(trained)  # before what takes long
    if newest := registry.newest(name):
        check_same(trained, newest)
    to = to or default_format(trained.task)
    with tempfile.TemporaryDirectory(prefix="heliostat-") as scratch:
        place = Path(scratch, "model")
        export(trained, to, str(place))
        manifest = manifest_of(trained, to, place, *finished(trained), registry.by)
        number = registry.put(name, origin_of(trained, to), manifest, place, folder.read(CONFIG), alias, why)
    return registry.resolve(f"{name}@{number}")


def check_same(run: Trained, version: Version) -> None:
    """Checks that a run predicts what a version of a model does: services and those who use them follow its alias.

    Raises:
        UserError: another target, or classes of which none is the version's.
    """
    target, before = _target(run.record.config.dataset.options), _target(version.config["dataset"].get("options", {}))
    classes, known = list(run.index.classes), version.manifest.data.classes
    other = target and before and target != before  # of a dataset that was built before it is not known
    if not other and bool(classes) == bool(known) and (not classes or {*classes} & {*known}):
        return
    raise UserError(
        f"run {run.folder.name} predicts {_said(target, classes)}, but model {version} {_said(before, known)}",
        "give the name of another model: --name",
    )


def _target(options: Mapping[str, Any]) -> str:
    return str(options.get("target") or "")


def _said(target: str, classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "") if classes else "no classes"
    return f"{target!r} ({shown})" if target else shown


def default_format(task: Task) -> str:
    """The format in which a model is kept: one that can be run without Heliostat."""
    return "lightgbm" if of_trees(task) else "torch"


def finished(run: Trained) -> tuple[Measured, Intervals]:
    """What the best checkpoint of a run reaches, by split, and the intervals of the test metrics; the run must have ended.

    Raises:
        UserError: it is still driven, or its best checkpoint cannot be used.
    """
    if Observer(run.folder).is_driven():
        raise UserError(f"run {run.folder} is still training", "wait for its end, or stop it")
    result = read_result(run.folder)
    if result is None:  # it was interrupted
        kept = next((each.metrics for each in all_checkpoints(run.folder) if each.step == run.step), {})
        return ({"validation": dict(kept)} if kept else {}), {}
    if result.best_step not in (None, run.step):
        raise UserError(
            f"the best checkpoint of run {run.folder}, step {result.best_step}, cannot be used: {'; '.join(run.notes)}",
            "restore it, or train again under another name (--set name=...)",
        )
    return result.metrics, result.intervals


def origin_of(run: Trained, to: str) -> str:
    """What identifies the model of a run: the same for the same checkpoint in the same format."""
    record = run.record
    return digest([record.config.name, record.created, record.hash, record.dataset.fingerprint, run.step, to])


def manifest_of(run: Trained, to: str, place: Path, measured: Measured, intervals: Intervals, by: str) -> Manifest:
    """The manifest of an export at ``place``."""
    record = run.record
    return Manifest(
        checksum=checksum_of(Folder.at(place)),
        bytes=sum(path.stat().st_size for path in place.rglob("*") if path.is_file()),
        format=to,
        run=str(run.folder),
        run_name=record.config.name,
        task=record.config.task,
        step=run.step,
        config_hash=record.hash,
        trained=record.created,
        git=record.git,
        versions=record.versions,
        data=_data(run),
        metric=run.task.metric,
        better=run.task.better,
        metrics=measured,
        intervals=intervals,
        added=time.time(),
        by=by,
    )


def _data(run: Trained) -> Data:
    index: Index = run.index
    columns = (
        {column.name: column.kind for column in index.signature.columns}
        if index.signature
        else {name: f"{field.dtype} {list(field.shape)}" for name, field in index.fields.items()}
    )
    return Data(
        source=run.record.config.dataset.source,
        uri=run.record.dataset.uri,
        fingerprint=run.record.dataset.fingerprint,
        rows={split: index.rows(split) for split in SPLITS},
        columns=dict(columns),
        classes=list(index.classes),
    )


def _check(name: str, alias: str) -> None:
    if parsed(name)[1]:
        raise UserError(f"--name is {name}, but a new version gets its number by itself", f"write --name {parsed(name)[0]}")
    if alias and alias not in ALIASES:
        raise UserError(f"--alias is {alias!r}, which is no alias", f"use one of {', '.join(ALIASES)}")
