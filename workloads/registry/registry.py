"""The models of a storage: their versions and aliases, and what changes them."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from heliostat.errors import UserError, nearest
from heliostat.folder import Folder
from heliostat.workloads.registry import log
from heliostat.workloads.registry.log import Decision, Entry, State
from heliostat.workloads.registry.version import MODEL, VERSION, Manifest, Version, verify
from heliostat.workloads.run.lease import user
from heliostat.workloads.run.record import CONFIG, MODELS
from heliostat.workloads.then_config import NAME

VERSIONS = "versions"
ALIASES = ("champion", "candidate")
NOW: Final = -1
"""Of ``expected``: the champion when the command is given."""


class Moved(UserError):
    """The champion is another version than a change expects."""


@dataclass(frozen=True)
class Listed:
    """A line of the list of models."""

    version: Version
    aliases: tuple[str, ...]


class Registry:
    """The models in ``storage/models``.

    Args:
        storage: a folder, a path or a URI; that of the runs.
        by: who changes it, for the log; by default the user and the host of this process.
    """

    def __init__(self, storage: Folder | str | Path, by: str = "") -> None:
        self.storage = storage if isinstance(storage, Folder) else Folder.at(storage)
        self.folder = self.storage / MODELS
        self.by = by or f"{user()}@{socket.gethostname()}"

    def names(self) -> list[str]:
        """The models that have a version.

        Raises:
            UserError: a run is called ``models``.
        """
        if self.folder.exists(CONFIG):
            raise UserError(
                f"{self.folder} is a run, but this is where the models of a storage are",
                "move that run to another storage, or give --storage",
            )
        return [name for name in self.folder.names() if NAME.fullmatch(name) and log.numbers(self.folder / name)]

    def versions(self, name: str) -> list[Listed]:
        """The versions of a model, the first one first.

        Raises:
            UserError: there is no such model.
        """
        state = self._state(name)
        return [
            Listed(self._version(name, number, state), tuple(a for a, at in state.aliases.items() if at == number))
            for number in range(1, len(state.versions) + 1)
        ]

    def resolve(self, reference: str) -> Version:
        """The version that ``NAME@3``, ``NAME@champion``, ``NAME@candidate`` or ``NAME`` (its champion) stands for.

        Raises:
            UserError: there is none.
        """
        name, wanted = parsed(reference)
        state = self._state(name)
        return self._version(name, _number(name, wanted or "champion", state), state)

    def newest(self, name: str) -> Version | None:
        """The version of a model that was added last; None if there is no such model."""
        state = log.state_of(self.folder / name)
        return self._version(name, len(state.versions), state) if state.versions else None

    def has_champion(self, name: str) -> bool:
        """Whether there is such a model with a champion."""
        return "champion" in log.state_of(self.folder / name).aliases

    def revision(self, name: str) -> int:
        """The number of the newest entry of a model, which each change increases; one listing. 0 if there is no such model."""
        return max(log.numbers(self.folder / name), default=0)

    def history(self, name: str) -> list[Entry]:
        """The log of a model, the newest entry first."""
        self._state(name)
        return list(log.entries(self.folder / name))

    def put(
        self, name: str, origin: str, manifest: Manifest, export: Path, config: bytes, alias: str = "", why: str = ""
    ) -> int:
        """Adds an exported model, or finds it; returns the number of the version.

        A process that ends at any point leaves either the whole version or none: what it has written is visible when an entry
        of the log has it, and deleted by the next one that adds a version.

        Args:
            name: of the model.
            origin: what identifies the trained model, 16 hexadecimal digits: of each there is one version.
            manifest: ``version.json``.
            export: the local folder of the export.
            config: ``config.yaml`` of the run.
            alias: ``candidate``, ``champion`` or empty; moved to the version in the same change.
            why: for the log.

        Raises:
            UserError: see `heliostat.workloads.registry.log.append`.
        """
        model = self.folder / name
        number = 0

        def change(state: State) -> tuple[int, State]:
            nonlocal number
            number = _with_origin(state, origin)
            if not number:
                _delete_leftovers(model / VERSIONS, state.versions)
                number = len(state.versions) + 1
                folder = f"{number}-{origin}"
                _write(model / VERSIONS / folder, manifest, export, config)
                state = state.model_copy(update={"versions": [*state.versions, folder]})
            return number, _aliased(state, alias, number) if alias else state

        log.append(model, "add", self.by, why, change)
        return number

    def promote(self, reference: str, why: str = "", expected: int | None = NOW) -> tuple[Version, int | None]:
        """Makes a version the champion, ``NAME`` its candidate; its files are verified before.

        Args:
            reference: ``NAME``, ``NAME@3`` or ``NAME@candidate``.
            why: for the log.
            expected: the version that must still be the champion, None for none; by default the one when this is called.

        Returns:
            The version, and the champion before.

        Raises:
            UserError: there is no such version; it is damaged.
            Moved: the champion was moved meanwhile.
        """
        name, wanted = parsed(reference)
        state = self._state(name)
        number = _number(name, wanted or "candidate", state)
        champion = state.aliases.get("champion") if expected == NOW else expected
        version = self._version(name, number, state)
        version.verify()

        def change(now: State) -> tuple[int, State]:
            if now.aliases.get("champion") != champion:
                raise self._moved(name, champion, now)
            return number, _aliased(now, "champion", number)

        self._append(name, "promote", why, change)
        return version, champion

    def decide(self, version: Version, decision: Decision, why: str) -> None:
        """Records what a gate has decided of a version: if it has passed, it becomes the candidate, else it is it no more."""

        def change(state: State) -> tuple[int, State]:
            if decision.passed and state.aliases.get("champion") != version.number:
                return version.number, _aliased(state, "candidate", version.number)
            kept = None if state.candidate == version.number else state.candidate
            return version.number, state.model_copy(update={"candidate": kept})

        log.append(self.folder / version.name, "gate", self.by, why, change, gate=decision)

    def rollback(self, name: str, why: str = "") -> tuple[Version, int]:
        """Makes the champion before this one the champion again; returns it, and the one that was.

        Raises:
            UserError: there is none; it is damaged; the champion was moved meanwhile.
        """
        state = self._state(name)
        champions = state.champions
        if len(champions) < 2:
            has = f"has no champion before version {champions[0]}" if champions else "has no champion"
            raise UserError(f"model {name!r} {has}", f"write heliostat model promote {name}@VERSION")
        version = self._version(name, champions[-2], state)
        version.verify()

        def change(now: State) -> tuple[int, State]:
            if now.champions != champions:
                raise self._moved(name, champions[-1], now)
            return version.number, now.model_copy(update={"champions": now.champions[:-1]})

        self._append(name, "rollback", why, change)
        return version, champions[-1]

    def _append(self, name: str, what: log.What, why: str, change: Callable[[State], tuple[int, State]]) -> None:
        log.append(self.folder / name, what, self.by, why, change)

    def _moved(self, name: str, expected: int | None, now: State) -> Moved:
        """The refusal of a change that did not expect this champion."""
        entries = log.entries(self.folder / name)
        last = next((entry for entry in entries if entry.state.aliases.get("champion") != entry.before), None)
        by = f"; last changed by {last.by} ({last.what} {last.version}{f', {last.why}' if last.why else ''})" if last else ""
        champion = _shown(now.aliases.get("champion"))
        return Moved(
            f"the champion of {name!r} is {champion}, but this command expects {_shown(expected)}{by}",
            f"look at it (heliostat model list {name}), and give the command again if it is still right",
        )

    def _state(self, name: str) -> State:
        _check_name(name)
        state = log.state_of(self.folder / name)
        if not state.versions:
            known = self.names()
            fix = nearest(name, known) if known else "heliostat model add RUN adds the model of a run"
            raise UserError(f"model {name!r} does not exist in {self.folder}", fix)
        return state

    def _version(self, name: str, number: int, state: State) -> Version:
        return Version.read(name, number, self.folder / name / VERSIONS / state.versions[number - 1])


def parsed(reference: str) -> tuple[str, str]:
    """The name and the version or alias of ``NAME@VERSION``; the second is empty in ``NAME``.

    Raises:
        UserError: it is not such a reference.
    """
    name, at, wanted = reference.partition("@")
    if at and not wanted:
        raise UserError(f"{reference!r} names no version", f"write {name}@3, {name}@champion or {name}@candidate")
    _check_name(name)
    return name, wanted


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be a model's name", "use up to 100 letters, digits, '-', '_' and '.', a letter first")


def _number(name: str, wanted: str, state: State) -> int:
    """The number of a version.

    Raises:
        UserError: there is no such version, or the alias is not set.
    """
    if wanted in state.aliases:
        return state.aliases[wanted]
    if wanted in ALIASES:
        last = f"{name}@{len(state.versions)}"
        fix = f"write heliostat model promote {last}" if wanted == "champion" else f"name a version, such as {last}"
        raise UserError(f"model {name!r} has no {wanted}", fix)
    if wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= len(state.versions):
        return int(wanted)
    known = f"1 to {len(state.versions)}" if len(state.versions) > 1 else "1"
    raise UserError(
        f"model {name!r} has no version {wanted!r}",
        f"its versions are {known}, its aliases {', '.join(state.aliases) or 'none'}",
    )


def _aliased(state: State, alias: str, number: int) -> State:
    if alias == "candidate":
        return state.model_copy(update={"candidate": number})
    champions = state.champions if state.aliases.get("champion") == number else [*state.champions, number]
    candidate = None if state.candidate == number else state.candidate
    return state.model_copy(update={"champions": champions, "candidate": candidate})


def _shown(number: int | None) -> str:
    return "none" if number is None else f"version {number}"


def _with_origin(state: State, origin: str) -> int:
    """The number of the version with an origin; 0 if there is none."""
    return next((at for at, folder in enumerate(state.versions, 1) if folder.partition("-")[2] == origin), 0)


def _delete_leftovers(versions: Folder, known: list[str]) -> None:
    """Deletes what processes have written that ended before their entry."""
    for name in versions.names():
        if name not in known:
            versions.delete(name)


def _write(folder: Folder, manifest: Manifest, export: Path, config: bytes) -> None:
    (folder / MODEL).copy_from(Folder.at(export))
    verify(folder / MODEL, manifest.checksum, f"what was written to {folder}")
    folder.write(CONFIG, config)
    folder.write(VERSION, manifest.model_dump_json(indent=1).encode())


def document(listed: Listed) -> dict[str, Any]:
    """A version as plain data, for ``--json``."""
    version = listed.version
    split, value = version.manifest.measured
    return {
        "name": version.name, "version": version.number, "aliases": list(listed.aliases), "folder": str(version.folder),
        "measured": {"split": split, "value": value},
        **version.manifest.model_dump(mode="json"),
    }  # fmt: skip
