"""The period of time of a command, and the record of a cluster's nodes in it."""

import argparse
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliostat.cluster.in_pod.record import Record
    from heliostat.cluster.profile import Profile

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DEFAULT_DAYS = 30


def add_since(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the option for the start."""
    parser.add_argument(
        "--since", metavar="TIME", help=f"the start, as an age such as 90m, 2h or 7d, or as a time (default: {default})"
    )


def add_period(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_since(parser, "30d, or the record's")
    parser.add_argument("--until", metavar="TIME", help="the end, given in the same way (default: now)")


@dataclass(frozen=True)
class Period:
    """Times in seconds since the epoch."""

    since: float | None
    """None: the last days, or what there is of them."""
    until: float
    now: float

    @property
    def begin(self) -> float:
        """From when on records are read."""
        return self.since or self.now - DEFAULT_DAYS * UNITS["d"]


def period(args: argparse.Namespace) -> Period:
    """The period that is asked for.

    Raises:
        UserError: it is none, or not in the past.
    """
    from heliostat.errors import UserError

    now = time.time()
    since, until = _moment("--since", args.since, now), _moment("--until", getattr(args, "until", None), now) or now
    if until > now or (since is not None and since >= until):
        raise UserError("--since and --until are not a period in the past", "give --since before --until, and both in the past")
    return Period(since, until, now)


def _moment(flag: str, text: str | None, now: float) -> float | None:
    """A time, or an age such as 2h, in seconds since the epoch."""
    from datetime import datetime

    from heliostat.errors import UserError

    if text is None:
        return None
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        return now - float(match[1]) * UNITS[match[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise UserError(
            f"{flag} is {text}, which is not a time", "give an age such as 90m, 2h or 7d, or a time such as 2026-11-25T12:00"
        ) from None


@contextmanager
def recorded(
    profile: "Profile", given: str, of: Period, say: Callable[[str], Any]
) -> "Iterator[tuple[Record, Callable[[list[str]], Path]]]":
    """The record of a cluster, and a function that copies further files of its storage into a folder that it returns.

    Args:
        profile: of the cluster.
        given: its name or path in the command.
        of: the period; the record also has what is near it.
        say: is called with what is waited for.

    Raises:
        UserError: there is no record of that time.
    """
    from heliostat.cluster.in_pod.record import read
    from heliostat.cluster.targets.kept import RECORDS
    from heliostat.errors import UserError

    with copied(profile, of, say, [RECORDS]) as (scratch, folder, fetch):
        record = read({str(path): path.read_bytes() for path in folder.glob("*/*.jsonl")})
        if record is None or record.begin >= of.until:
            fix = f"heliostat up {given} starts a recorder, also beside a head of an earlier version"
            missing = f"the storage of {profile.name} has no record of its nodes in that time"
            raise UserError("; ".join([missing, *about_jobs_not_in(not_in(record, profile, of, scratch))]), fix)
        yield record, fetch


@contextmanager
def copied(
    profile: "Profile", of: Period, say: Callable[[str], Any], more: Sequence[str] = ()
) -> "Iterator[tuple[Path, Path, Callable[[list[str]], Path]]]":
    """A copy of the files of a record, and of others that match patterns: where the storage is copied to, the folder of the
    record in it, and a function that copies further files of the storage and returns the former.
    """
    from heliostat.cluster.targets.storage import opened, record_folder

    with TemporaryDirectory(prefix="heliostat-record-") as temporary, opened(profile, say) as storage:
        scratch, folder = Path(temporary), record_folder(profile)

        def fetch(patterns: list[str]) -> Path:
            if patterns:
                storage.fetch(patterns, scratch)
            return scratch

        fetch([*more, *(f"{folder}/{month}/*" for month in _months(of.begin - UNITS["d"], of.now))])
        yield scratch, scratch / folder, fetch


def not_in(record: "Record | None", profile: "Profile", of: Period, scratch: Path) -> list[str]:
    """The runs, and other jobs by their ids, that a record lacks; ``scratch`` has the records of all jobs of the storage."""
    from heliostat.cluster.targets.kept import kept_jobs

    known = record.jobs if record else {}
    jobs = [job for job in kept_jobs(scratch) if job.cluster == profile.name and of.begin <= job.started < of.until]
    return sorted({job.run or job.id for job in jobs if job.id not in known})


def about_jobs_not_in(names: Sequence[str]) -> list[str]:
    """What is to be known of jobs that a record lacks, if there are any."""
    from heliostat.errors import some

    why = "ran in a gap of the record, for less than two seconds, or on a cluster of its own of an earlier version"
    return [f"not in the record: {some(names, 5)}; each {why}, and heliostat runs --on PROFILE has its cost"] * bool(names)


def _months(since: float, until: float) -> list[str]:
    """The folders of a record for a time."""
    from datetime import UTC, datetime, timedelta

    day, last = datetime.fromtimestamp(since, UTC).date(), datetime.fromtimestamp(until, UTC).date()
    return sorted({f"{day + timedelta(days=n):%Y-%m}" for n in range((last - day).days + 1)})
