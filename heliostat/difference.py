"""The difference between two documents, as lines with the path of each value."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KEYS = ("groupName", "name", "containerPort", "key", "port")
"""By which key of their items lists are compared, the first that all items have."""
ABSENT = object()


@dataclass(frozen=True)
class Change:
    """A value that is not the same; `ABSENT` stands for one that is not there."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        if self.old is ABSENT:
            return f"+ {self.path}: {_short(self.new)}"
        if self.new is ABSENT:
            return f"- {self.path}: {_short(self.old)}"
        return f"~ {self.path}: {_short(self.old)} -> {_short(self.new)}"


def difference(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """What must change in ``old`` to make it ``new``; a list of named things is compared by name, not by place."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from difference(old.get(key, ABSENT), new.get(key, ABSENT), f"{path}.{key}" if path else key)
    elif (named := _named(old, new)) is not None:
        before, after = named
        for key in dict.fromkeys([*before, *after]):
            yield from difference(before.get(key, ABSENT), after.get(key, ABSENT), f"{path}[{key}]")
    elif old != new:
        yield Change(path, old, new)


def _named(old: Any, new: Any) -> tuple[dict[Any, Any], dict[Any, Any]] | None:
    if not isinstance(old, list) or not isinstance(new, list):
        return None
    items = [*old, *new]
    for key in KEYS:
        if items and all(isinstance(item, Mapping) and isinstance(item.get(key), str | int) for item in items):
            before, after = {item[key]: item for item in old}, {item[key]: item for item in new}
            # Twice the same name: then only the place tells which is which.
            return (before, after) if len(before) == len(old) and len(after) == len(new) else None
    return None


def _short(value: Any) -> str:
    text = str(value)
    lines = text.count("\n") + 1 if isinstance(value, str) else 1
    if lines > 1:
        return f"({lines} lines)"
    if isinstance(value, Mapping | Sequence) and len(text) > 100:
        return f"{text[:100]}..."
    return text
