"""The models of a storage as the page shows them: all, the versions and the log of one, and the versions of a run."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from heliostat.commands.model.registry import metric_of
from heliostat.commands.runs.page.views import NAME, Document
from heliostat.console import numbers, printable
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.wording import agreeing, counted
from heliostat.workloads.registry.log import LOG, Entry
from heliostat.workloads.registry.registry import Listed, Registry
from heliostat.workloads.registry.version import Manifest
from heliostat.workloads.run.record import CONFIG, MODELS, read_head

AGAIN, LONGEST = 10.0, 2.0
"""Seconds after which the registry is looked at again, and those for which one look reads; what is left is read by the next."""
ROWS = 200
"""Versions, and entries of the log, that are shown of a model, the newest first."""


@dataclass(frozen=True)
class Known:
    """A model: its versions and its log, both with the newest first, or why it cannot be read."""

    name: str
    versions: Sequence[Listed] = ()
    log: Sequence[Entry] = ()
    problem: str = ""


class _Later(Exception):
    """The time of a look is over."""


@dataclass
class _Look:
    """What one look may still read: at least one file, so that it comes to an end."""

    until: float
    has_read: bool = False

    def count(self) -> None:
        """Count a file that is to be read."""
        if self.has_read and time.monotonic() > self.until:
            raise _Later
        self.has_read = True


@dataclass(frozen=True)
class _Once(Folder):
    """A folder of files that never change, each of which is read once."""

    kept: dict[str, bytes] = field(default_factory=dict, compare=False)
    look: _Look = field(default_factory=lambda: _Look(0.0), compare=False)

    def read(self, name: str) -> bytes:
        """See `Folder.read`."""
        place = f"{self.path}/{name}"
        if place not in self.kept:
            self.look.count()
            self.kept[place] = super().read(name)
        return self.kept[place]


class Models:
    """The models of a storage, as current as `AGAIN` and `LONGEST` allow."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], dict[str, bytes]] = {}
        self._known: dict[str, Known] = {}
        self._next = 0.0
        self.pending = 0
        """Models that have not been read to their end yet."""

    def look(self, storage: Folder) -> list[Known]:
        """The models, by name."""
        if time.monotonic() >= self._next:
            self._read(storage)
            self._next = 0.0 if self.pending else time.monotonic() + AGAIN
        return [*self._known.values()]

    def _read(self, storage: Folder) -> None:
        # A run of that name is in the list of runs, and leaves no place for models.
        names = [] if (storage / MODELS).exists(CONFIG) else Registry(storage).names()
        before, kept, look = self._known, self._kept, _Look(time.monotonic() + LONGEST)
        self._known, self._kept, self.pending = {}, {}, 0
        for name in names:
            # The name of the first entry is unique: a model that was deleted and made again has another one.
            made = (storage.path, name, *(storage / MODELS / name / LOG).names()[:1])
            self._kept[made] = kept.get(made, {})
            place = _Once(storage.filesystem, storage.path, storage.patience, kept=self._kept[made], look=look)
            try:
                self._known[name] = _model(Registry(place), name)
            except _Later:
                self.pending += 1
                if name in before:
                    self._known[name] = before[name]


def _model(registry: Registry, name: str) -> Known:
    try:
        return Known(name, registry.versions(name)[::-1], registry.history(name))
    except UserError as error:
        return Known(name, problem=error.what)
    except FileNotFoundError as error:  # deleted meanwhile
        return Known(name, problem=f"a file is gone: {error}")


def listed(known: Known) -> Document:
    """A row of the list of models."""
    if known.problem:
        return {"name": known.name, "problem": known.problem}
    by_alias = {alias: each for each in known.versions for alias in each.aliases}
    aliases = {alias: {"version": each.version.number, "metric": metric_of(each.version)} for alias, each in by_alias.items()}
    return {"name": known.name, "versions": len(known.versions), **aliases, "last": _entry(known.log[0])}


def shown(models: Sequence[Known], name: str, storage: Folder, pending: int = 0) -> Document:
    """The versions and the log of a model, of those that were read; ``pending`` others were not yet.

    Raises:
        UserError: there is no such model, it cannot be read, or it may be one of these others.
    """
    known = next((each for each in models if each.name == name), None)
    if known is None and pending:
        raise UserError(f"{counted(pending, 'model')} {agreeing(pending, 'are still being read')}", "wait")
    if known is None:
        raise UserError(f"there is no model {printable(name)!r} in this storage", "choose another one")
    if known.problem:
        raise UserError(f"model {name} cannot be read: {known.problem}", f"heliostat model list {name} has what to do")
    return {
        **listed(known),
        "rows": [_version(each, storage) for each in known.versions[:ROWS]],
        "log": [_entry(entry) for entry in known.log[:ROWS]],
        "entries": len(known.log),
    }


def _version(listed: Listed, storage: Folder) -> Document:
    manifest = listed.version.manifest
    split, _ = manifest.measured
    low, high = manifest.intervals.get(manifest.metric, [None, None]) if split == "test" else (None, None)
    others = {name: value for name, value in manifest.metrics.get(split, {}).items() if name != manifest.metric}
    return {
        "version": listed.version.number, "aliases": ", ".join(listed.aliases), "metric": metric_of(listed.version),
        "interval": "" if low is None or high is None else f"{low:.4f} to {high:.4f} (95 %)", "others": numbers(others),
        "run": printable(manifest.run_name), "link": run_in(storage, manifest), "step": manifest.step, "added": manifest.added,
        "by": printable(manifest.by), "format": printable(manifest.format), "bytes": manifest.bytes,
        "checksum": manifest.checksum, "data": printable(manifest.data.source or ""), "fingerprint": manifest.data.fingerprint,
    }  # fmt: skip


def _entry(entry: Entry) -> Document:
    decided = {} if entry.gate is None else {"passed": entry.gate.passed}
    return {
        "at": entry.at, "what": entry.what, "version": entry.version, "before": entry.before, "by": printable(entry.by),
        "why": printable(entry.why), **decided,
    }  # fmt: skip


def run_in(storage: Folder, manifest: Manifest) -> str:
    """The name by which the page shows the run of a version; empty if it is not in the storage, or another one has its name."""
    name = _name_of(manifest)
    folder = storage / name
    if not NAME.fullmatch(name) or not folder.exists(CONFIG):
        return ""
    try:
        return name if read_head(folder)[2] == manifest.trained else ""
    except UserError:  # which the page of that run shows
        return ""


def of_run(models: Sequence[Known], storage: Folder, name: str) -> list[Document]:
    """The versions that come from a run, or from the trials of a sweep."""
    return [
        {"model": known.name, "version": each.version.number, "aliases": ", ".join(each.aliases)}
        for known in models
        for each in known.versions
        if _is_of(each.version.manifest, name) and run_in(storage, each.version.manifest)
    ]


def _is_of(manifest: Manifest, name: str) -> bool:
    own = _name_of(manifest)
    return own == name or own.startswith(f"{name}/trials/")


def _name_of(manifest: Manifest) -> str:
    """The name of a run in its storage, which may have been moved: ``digits``, or ``sweep/trials/0003``."""
    parts = manifest.run.rstrip("/").split("/")
    return "/".join(parts[-3:] if parts[-2:-1] == ["trials"] else parts[-1:])
