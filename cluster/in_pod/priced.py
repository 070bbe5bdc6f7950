"""How long the nodes of a record existed and at what price, without their use, which is all that a budget needs.

`record.read` takes the memory of every line. Here one file at a time is parsed, and again only after it has changed: the
recorder beside a head compares what is spent with a budget every 15 s, in a container with little memory, for a whole month.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from .record import parse, unbroken
from .store import Store


@dataclass(frozen=True)
class Span:
    """The time from the begin of a node to its end, or until it was last recorded; in seconds since the epoch."""

    begin: float
    end: float
    price: float | None
    """Per hour; None if it was not known."""

    def cost(self, since: float, until: float) -> float:
        """The money for the part of it between two times; 0 without a price."""
        return max(0.0, min(self.end, until) - max(self.begin, since)) * (self.price or 0.0) / 3600


@dataclass(frozen=True)
class _Node:
    """What one file says of a node."""

    known: float
    """When it was first recorded with its price."""
    begin: float | None
    end: float | None
    price: float | None


@dataclass(frozen=True)
class _File:
    nodes: Mapping[str, _Node]
    last: float
    """The time of its last line."""
    whole: bool
    """Whether no line is damaged or cut off."""


class Spans:
    """The nodes of records on a storage."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, dict[str, tuple[Any, _File | None]]] = {}

    def of(self, folder: str, month: str) -> list[Span]:
        """The nodes of a month, such as ``2026-03``, of the record in a folder, in no order; none if there are no files.

        Raises:
            OSError: the storage cannot be read.
        """
        known, files = self._known.get(folder, {}), {}
        for name, version in self._store.versions(f"{folder}/{month}", ".jsonl").items():
            kept = known.get(name)
            if kept and kept[0] == version:
                files[name] = kept
            elif (data := self._store.read(name)) is not None:
                files[name] = version, _parsed(data)
        self._known[folder] = files
        return list(_spans({name: file for name, (_, file) in files.items() if file}))


def _parsed(data: bytes) -> _File | None:
    lines, damaged = parse(data)
    if not lines:
        return None
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["e"] in ("node", "gone"):
            found.setdefault(line["id"], []).append(line)
    whole = not damaged and data.endswith(b"\n")
    return _File({id: _node(of) for id, of in found.items()}, lines[-1]["t"], whole)


def _node(lines: Sequence[dict[str, Any]]) -> _Node:
    there = [line for line in lines if line["e"] == "node" and line["begin"] is not None]
    known, price = next(((line["t"], line["price"]) for line in there if line["price"] is not None), (inf, None))
    ends = (line["end"] for line in lines if line["e"] == "gone")
    return _Node(known, min((line["begin"] for line in there), default=None), min(ends, default=None), price)


def _spans(files: Mapping[str, _File]) -> Iterator[Span]:
    parts: dict[str, list[tuple[_Node, float]]] = {}
    for names in unbroken({name: file.whole for name, file in files.items()}):
        last = files[names[-1]].last
        for name in names:
            for id, node in files[name].nodes.items():
                parts.setdefault(id, []).append((node, last))
    for of in parts.values():
        begin = min((node.begin for node, _ in of if node.begin is not None), default=None)
        if begin is not None:
            end = min((node.end for node, _ in of if node.end is not None), default=max(last for _, last in of))
            yield Span(begin, end, min(of, key=lambda part: part[0].known)[0].price)
