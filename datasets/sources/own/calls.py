"""Calls of the user's own code, whose errors become messages with the user's own line, and what it returns."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from heliostat.datasets.index import SPLITS, SplitName
from heliostat.datasets.sources.own import KEY
from heliostat.datasets.sources.own.rows import table_of
from heliostat.datasets.splits import WORDS
from heliostat.errors import HeliostatError, UserError, short_traceback

Parts = dict[SplitName | None, Any]


@contextmanager
def calling(name: str, where: str = "") -> Iterator[None]:
    """Raise a UserError for whatever the user's own code raises.

    Args:
        name: the source.
        where: what it was asked for, such as a sample.
    """
    try:
        yield
    except HeliostatError:
        raise
    except (Exception, SystemExit) as error:  # it can raise anything, and the message must show it
        at = f" at {where}" if where else ""
        what = f"{KEY} {name!r} fails{at}:\n  {short_traceback(error)}"
        raise UserError(what, "correct the file that is named last") from None


def parts_of(name: str, made: Any) -> Parts:
    """What a source has returned, by split; under None where it says no splits.

    Raises:
        UserError: it is a mapping of something else, or without a part for training.
    """
    if not isinstance(made, Mapping):
        return {None: made}
    odd = [key for key in made if str(key).lower() not in WORDS]
    if odd or not made:
        raise UserError(
            f"{KEY} {name!r} returns a mapping with {', '.join(map(repr, made)) or 'nothing'}, not with splits",
            "return {'train': ..., 'validation': ..., 'test': ...}, an iterable of samples, or a table of pandas or Arrow",
        )
    parts = {WORDS[str(key).lower()]: part for key, part in made.items()}
    if "train" not in parts or len(parts) < len(made):
        raise UserError(
            f"{KEY} {name!r} returns a mapping with {', '.join(map(repr, made))}", "return one train, and no split twice"
        )
    return {split: parts[split] for split in SPLITS if split in parts}


def values_of(name: str, part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The samples of a part, or parts of its table, each with its name for messages.

    Raises:
        UserError: the user's code fails, or it is nothing that has samples.
    """
    with calling(name):
        samples = _iterated(name, part)
    number = 0
    while True:
        place = f"{prefix}sample {number}"
        with calling(name, place):
            try:
                value = next(samples)
            except StopIteration:
                return
        yield place, value
        number += 1


def length_of(part: Any) -> int:
    """How many samples a part has; 0 if that is not known."""
    try:
        return len(part)
    except (TypeError, NotImplementedError):
        return 0


def _iterated(name: str, part: Any) -> Iterator[Any]:
    if table_of(part) is not None:
        return iter([part])
    if type(part).__name__ == "DataLoader":
        raise UserError(f"{KEY} {name!r} returns a DataLoader, which yields batches", "return its dataset")
    kind = type(part)
    if isinstance(part, str | bytes) or not (hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")):
        raise UserError(
            f"{KEY} {name!r} returns {part!r:.60} of type {kind.__name__}, which has no samples",
            "return an iterable of samples, a Dataset of torch, or a table of pandas or Arrow",
        )
    if hasattr(kind, "__iter__"):
        return iter(part)
    return (part[number] for number in range(len(part)))
