"""A version of a model: an export that does not change, and where it comes from."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from heliostat.config import Config
from heliostat.errors import UserError, some
from heliostat.folder import Folder
from heliostat.workloads.config import Better
from heliostat.workloads.export import SUMS
from heliostat.workloads.run.record import CONFIG, Measured, read_record

VERSION, MODEL = "version.json", "model"


class Data(Config):
    """What a version was trained on."""

    source: str | None
    uri: str
    fingerprint: str
    rows: dict[str, int]
    """By split."""
    columns: dict[str, str]
    """The kind of each column of a table, or the type and shape of each field."""
    classes: list[str]


class Manifest(Config):
    """``version.json``: where a version comes from, and what it reaches."""

    checksum: str
    """The SHA-256 of ``model/SHA256SUMS``, which has that of each file."""
    bytes: int
    """Of all files of ``model/``."""
    format: str
    run: str
    """The path or URI of the run."""
    run_name: str
    task: str
    step: int
    """Of the checkpoint."""
    config_hash: str
    trained: float
    """When the run was started, in seconds since the epoch."""
    git: str | None
    """The commit of the code, with ``+`` if it had changes."""
    versions: dict[str, str]
    data: Data
    metric: str
    """That by which the checkpoint was chosen."""
    better: Better | None
    metrics: Measured
    """By split."""
    intervals: dict[str, list[float]]
    """By test metric the least and the most of 95 %."""
    added: float
    """In seconds since the epoch."""
    by: str

    @property
    def measured(self) -> tuple[str, float | None]:
        """The last split that was evaluated, mostly the test split, and the metric on it."""
        split = next((split for split in ("test", "validation", "train") if self.metrics.get(split)), "")
        return split, self.metrics.get(split, {}).get(self.metric)


@dataclass(frozen=True)
class Version:
    """A version of a model in a registry."""

    name: str
    number: int
    folder: Folder
    """Has ``model/``, the export, with ``version.json`` and ``config.yaml``."""
    manifest: Manifest

    @classmethod
    def read(cls, name: str, number: int, folder: Folder) -> "Version":
        """Reads ``version.json``.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            return cls(name, number, folder, Manifest.model_validate_json(folder.read(VERSION)))
        except (FileNotFoundError, pydantic.ValidationError) as error:
            reason = "it is missing" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())[:200]
            raise UserError(f"{folder}/{VERSION} cannot be used: {reason}", "restore it") from None

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def checksum(self) -> str:
        """The same for two versions only if all files of their ``model/`` are."""
        return self.manifest.checksum

    @property
    def model(self) -> Folder:
        """What ``heliostat model export`` has written."""
        return self.folder / MODEL

    @property
    def config(self) -> dict[str, Any]:
        """The config of the run, as it was resolved."""
        from ruamel.yaml import YAML

        found: dict[str, Any] = YAML(typ="safe", pure=True).load(self.folder.read(CONFIG).decode())["config"]
        return found

    def verify(self) -> None:
        """Raises a UserError if a file of the export is missing, or differs from what was added."""
        verify(self.model, self.checksum, f"version {self}")

    def fetch(self, place: Path) -> Path:
        """The local folder of the export, verified: on another storage a copy in ``place``.

        Raises:
            UserError: see `verify`.
        """
        if self.model.is_local:
            self.verify()
            return Path(self.model.path)
        # File by file: pyarrow copies no folder in a folder from a store that lists only objects.
        for name in [*(name for _, name in _sums(self.model)), SUMS]:
            target = place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.model.read(name))
        verify(Folder.at(place), self.checksum, f"version {self}")
        return place


def run_of(version: Version, storage: Folder) -> Folder | None:
    """The folder of the run of a version in a registry of this storage; None if it is gone."""
    manifest = version.manifest
    for folder in (Folder.at(manifest.run), storage / manifest.run_name):  # the storage may have been moved
        if folder.exists(CONFIG) and read_record(folder).created == manifest.trained:
            return folder
    return None


def checksum_of(model: Folder) -> str:
    """The checksum of an export."""
    return hashlib.sha256(model.read(SUMS)).hexdigest()


def verify(model: Folder, checksum: str, what: str) -> None:
    """Raises a UserError if an export is not the one with this checksum; ``what`` begins the message."""
    if _sum(model, SUMS) == checksum:
        bad = [name for expected, name in _sums(model) if _sum(model, name) != expected]
    else:
        bad = [SUMS]
    if bad:
        raise UserError(
            f"{what} is damaged: {some(bad, 5)} in {model} is missing or differs from what was added",
            "restore it, or use another version",
        )


def _sums(model: Folder) -> list[tuple[str, str]]:
    """The SHA-256 and the name of each file of an export."""
    parts = (line.partition("  ") for line in model.read(SUMS).decode().splitlines())
    return [(expected, name) for expected, _, name in parts]


def _sum(model: Folder, name: str) -> str:
    try:
        return hashlib.sha256(model.read(name)).hexdigest()
    except FileNotFoundError:
        return ""
