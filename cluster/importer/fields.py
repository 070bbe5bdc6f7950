"""Reads a document field by field, so that none is overlooked: what has not been taken at the end is reported."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MISSING = "no key of a profile has it: remove it from the document, or set it on the cluster by hand"


@dataclass(frozen=True)
class Finding:
    """A field of the document, its value, and what to do about it or what becomes of it."""

    path: str
    value: Any
    note: str
    key: str = ""
    """The key of the profile that decides it, if it is given."""

    @property
    def what(self) -> str:
        """The field and its value, of a long one the beginning."""
        text = str(self.value)
        return f"{self.path} is {text if len(text) <= 60 else text[:57] + '...'}"

    def __str__(self) -> str:
        return f"{self.what}: {self.note}"


@dataclass
class Findings:
    """What a profile cannot express, and what Heliostat does otherwise than the document."""

    lost: list[Finding] = field(default_factory=list)
    changed: list[Finding] = field(default_factory=list)


class Fields:
    """A mapping in a document, with its path; fields are taken out of it."""

    def __init__(self, data: Any, path: str, found: Findings) -> None:
        self.data: dict[str, Any] = dict(data or {})
        self.path, self.found = path, found

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a field, which is then expressed, or means nothing for the cluster."""
        value = self.data.pop(key, None)
        return default if value is None else value

    def inside(self, key: str) -> "Fields":
        """A mapping in it."""
        return Fields(self.data.pop(key, None), self.at(key), self.found)

    def items(self, key: str, name: str = "name") -> Iterator["Fields"]:
        """The mappings in a list, which are named in their paths as far as they have a name."""
        for number, item in enumerate(self.data.pop(key, None) or []):
            yield Fields(item, f"{self.at(key)}[{item.get(name, number)}]", self.found)

    def at(self, key: str) -> str:
        """The path of a field."""
        return f"{self.path}.{key}" if self.path else key

    def lost(self, key: str, value: Any, note: str = MISSING, decided_by: str = "") -> None:
        """Report that a field cannot be expressed, unless a key of the profile is given instead."""
        self.found.lost.append(Finding(self.at(key), value, note, decided_by))

    def changed(self, key: str, value: Any, note: str) -> None:
        """Report that Heliostat does something else than a field says, or what an absent one means."""
        self.found.changed.append(Finding(self.at(key), value, note))

    def expect(self, key: str, wanted: tuple[Any, ...], note: str, otherwise: str = "changed") -> None:
        """Take a field that Heliostat sets itself, and report another value."""
        value = self.data.pop(key, None)
        if value is not None and value not in wanted:
            getattr(self, otherwise)(key, value, note)

    def rest(self, notes: dict[str, str] | None = None) -> None:
        """Report the fields that are left, with what to do about each."""
        for key, value in self.data.items():
            if value not in (None, {}, []):
                self.lost(key, value, (notes or {}).get(key, MISSING))
        self.data = {}
