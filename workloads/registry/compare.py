"""How two versions differ: their configs, their data, where they come from and what they reach."""

from typing import Any

from heliostat.difference import ABSENT, difference
from heliostat.workloads.registry.version import Manifest, Version

Change = tuple[str, Any, Any]
ORIGIN = ("run", "task", "step", "git", "versions", "format", "bytes", "metric")


def compare(old: Version, new: Version) -> dict[str, Any]:
    """The differences of two versions.

    Returns:
        ``config``, ``data`` and ``origin``: each value that differs, as its dotted path, the old and the new one (``absent``
        where there is none); ``metrics``: by ``SPLIT METRIC`` the old and the new one and the new minus the old one, None where
        that is unknown.
    """
    return {
        "config": _changes(old.config, new.config),
        "data": _changes(old.manifest.data.model_dump(mode="json"), new.manifest.data.model_dump(mode="json")),
        "origin": _changes(*(each.manifest.model_dump(mode="json", include=set(ORIGIN)) for each in (old, new))),
        "metrics": _metrics(old.manifest, new.manifest),
    }


def _changes(old: Any, new: Any) -> list[Change]:
    return [(each.path, _value(each.old), _value(each.new)) for each in difference(old, new, keys=())]


def _value(value: Any) -> Any:
    return "absent" if value is ABSENT else value


def _metrics(old: Manifest, new: Manifest) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {}
    for split in dict.fromkeys([*old.metrics, *new.metrics]):
        before, after = old.metrics.get(split, {}), new.metrics.get(split, {})
        for name in dict.fromkeys([*before, *after]):
            one, two = before.get(name), after.get(name)
            found[f"{split} {name}"] = [one, two, None if one is None or two is None else two - one]
    return found
