"""The difference between two documents or configs, as the path, the old and the new value of each change."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KEYS = ("groupName", "name", "containerPort", "key", "port")
"""Keys that identify the items of a list in Kubernetes; the first one that all items have is used."""
ABSENT = object()
"""The value of a path that does not exist."""


@dataclass(frozen=True)
class Change:
    """A value that differs; `ABSENT` on one side if the path exists only on the other."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        if self.old is ABSENT:
            return f"+ {self.path}: {_short(self.new)}"
        if self.new is ABSENT:
            return f"- {self.path}: {_short(self.old)}"
        return f"~ {self.path}: {_short(self.old)} -> {_short(self.new)}"


def difference(old: Any, new: Any, path: str = "", keys: Sequence[str] = KEYS) -> Iterator[Change]:
    """The changes that turn ``old`` into ``new``; items of a list with one of ``keys`` are matched by it, in any order."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from difference(old.get(key, ABSENT), new.get(key, ABSENT), f"{path}.{key}" if path else key, keys)
    elif (named := _named(old, new, keys)) is not None:
        before, after = named
        for key in dict.fromkeys([*before, *after]):
            yield from difference(before.get(key, ABSENT), after.get(key, ABSENT), f"{path}[{key}]", keys)
    elif old != new and not _same(old, new, keys):
        yield Change(path, old, new)


def _same(old: Any, new: Any, keys: Sequence[str]) -> bool:
    """Whether two lists whose items cannot be matched differ only in the order of lists inside of the items."""
    lists = isinstance(old, list) and isinstance(new, list) and len(old) == len(new)
    return lists and not any(True for pair in zip(old, new, strict=True) for _ in difference(*pair, keys=keys))


def _named(old: Any, new: Any, keys: Sequence[str]) -> tuple[dict[Any, Any], dict[Any, Any]] | None:
    if not isinstance(old, list) or not isinstance(new, list):
        return None
    items = [*old, *new]
    for key in keys:
        if items and all(isinstance(item, Mapping) and isinstance(item.get(key), str | int) for item in items):
            before, after = {item[key]: item for item in old}, {item[key]: item for item in new}
            # With the same name twice, the items cannot be matched by it.
            return (before, after) if len(before) == len(old) and len(after) == len(new) else None
    return None


def written(value: Any) -> str:
    """A value as a config file or a document has it: ``null``, ``true``, ``["a", 1]``, and a text without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _short(value: Any) -> str:
    text = written(value)
    lines = text.count("\n") + 1 if isinstance(value, str) else 1
    if lines > 1:
        return f"({lines} lines)"
    if isinstance(value, Mapping | Sequence) and len(text) > 100:
        return f"{text[:100]}..."
    return text
