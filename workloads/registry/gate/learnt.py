"""What a run and a version have learnt from: their datasets, and those of the runs whose weights they have started from."""

from collections.abc import Sequence
from dataclasses import dataclass

from heliostat.config import Config, validate
from heliostat.datasets import Dataset
from heliostat.errors import UserError
from heliostat.folder import Folder, absolute, default_base, expanded
from heliostat.workloads.config import StartFrom
from heliostat.workloads.inference import Trained
from heliostat.workloads.registry.version import Version, run_of
from heliostat.workloads.run.record import open_dataset, read_record
from heliostat.workloads.training.weights import FILES


class _Started(Config):
    start_from: StartFrom | None = None


@dataclass(frozen=True)
class Learnt:
    """The datasets that two models have learnt from."""

    candidate: Dataset
    champion: Dataset
    all: Sequence[Dataset]
    """These two and those of their ancestors, each once."""
    notes: Sequence[str]
    """What is not known."""


def learnt_from(run: Trained, version: Version, storage: Folder) -> Learnt:
    """The datasets of a run and of a version in a registry of this storage.

    Raises:
        UserError: one is missing, or has changed.
    """
    own, notes = dataset_of(version, storage), list[str]()
    found = [run.dataset, own, *_of_ancestors(f"run {run.folder}", run.record.config.start_from, notes)]
    start = version.config.get("start_from")  # the only key of it that is needed: others may be of an earlier version
    given = validate({"start_from": start}, _Started, f"the config of version {version}").start_from
    found += _of_ancestors(f"version {version}", given, notes)
    return Learnt(run.dataset, own, [*{each.index.fingerprint: each for each in found}.values()], notes)


def dataset_of(version: Version, storage: Folder) -> Dataset:
    """The dataset that a version in a registry of this storage was trained on.

    Raises:
        UserError: it is missing, or has changed.
    """
    manifest = version.manifest
    try:
        if folder := run_of(version, storage):
            return open_dataset(folder, read_record(folder))
        dataset = Dataset.open(manifest.data.uri)
        if dataset.index.fingerprint != manifest.data.fingerprint:
            raise UserError(f"dataset {manifest.data.uri} has changed since", "restore it")
        return dataset
    except UserError as error:
        what = f"the rows that version {version} has learnt from are not known: {error.what}"
        raise UserError(what, error.fix) from None


def _of_ancestors(what: str, start: StartFrom | None, notes: list[str]) -> list[Dataset]:
    found = list[Dataset]()
    while start:
        path = expanded(start.path, key="start_from")
        if path.endswith(FILES):
            notes.append(f"{what} has started from {path}; the rows that this has learnt from are not known")
            return found
        folder = Folder.at(absolute(path, default_base()))
        try:
            record = read_record(folder)
            found.append(open_dataset(folder, record))
        except UserError as error:
            unknown = f"{what} has started from {folder}, and the rows that this has learnt from are not known: {error.what}"
            raise UserError(unknown, error.fix) from None
        start = record.config.start_from
    return found
