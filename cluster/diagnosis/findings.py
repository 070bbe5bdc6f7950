"""What a check found: fine, a problem, or not visible from here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """The result of a check."""

    state: Literal["ok", "problem", "unknown"]
    what: str
    fix: str = ""
    check: str = ""
    """The check's name in its table."""


Found = Iterator[Finding]


def ok(what: str) -> Finding:
    """As it should be."""
    return Finding("ok", what)


def problem(what: str, fix: str) -> Finding:
    """A fault, now or as soon as the cluster grows."""
    return Finding("problem", what, fix)


def unknown(what: str, fix: str) -> Finding:
    """Not visible from here; ``fix`` says how to find out."""
    return Finding("unknown", what, fix)
