"""Schedules of cron as Kubernetes and KubeRay read them, and their next times.

Both parse them with robfig/cron v3 (parser.go and spec.go, ``ParseStandard``), whose rules differ from other crons: weekdays
are 0 to 6, ``N/M`` starts at N, names have three letters, and a day counts if it fits the day of the month or the weekday, but
if one of these fields begins with ``*`` and has no step, the other one decides alone.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, available_timezones

from heliostat.config import nearest
from heliostat.errors import UserError
from heliostat.wording import counted

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(MONTHS, 1)}),
    ("weekday", 0, 6, {name: number for number, name in enumerate(WEEKDAYS)}),
)
"""The fields in their order: name, least and largest number, and names of numbers."""
SHORT = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
HORIZON = 17 * 366
"""Days in which times are looked for: up to eight years lie between two 29ths of February."""
EXAMPLE = 'write minute, hour, day, month and weekday, such as --cron "0 2 * * mon-fri", or @daily'


@dataclass(frozen=True)
class Schedule:
    """The numbers of each field, in order, and whether a day must fit both of its fields or one of them."""

    minutes: list[int]
    hours: list[int]
    days: list[int]
    months: list[int]
    weekdays: list[int]
    both: bool

    def is_on(self, day: datetime) -> bool:
        """Whether it has times on a day."""
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and ((of_month and of_week) if self.both else (of_month or of_week))

    def times(self, after: datetime) -> Iterator[datetime]:
        """The times after a moment, in its time zone; those that a change to summer time skips are left out."""
        first = after.replace(hour=0, minute=0, second=0, microsecond=0)
        for day in (first + timedelta(days=number) for number in range(HORIZON)):
            for hour, minute in ((hour, minute) for hour in self.hours for minute in self.minutes) if self.is_on(day) else ():
                time = day.replace(hour=hour, minute=minute)
                if time > after and time.astimezone(UTC).astimezone(time.tzinfo).hour == hour:
                    yield time


def parse(text: str) -> Schedule:
    """Parse a schedule.

    Raises:
        UserError: it is invalid, or has no time at all; all wrong fields are listed.
    """
    fields = SHORT.get(text, text).split()
    if zone := re.match(r"(?:CRON_)?TZ=(\S+)", text):
        rest = " ".join(fields[1:])
        raise UserError(
            f"--cron is {text!r}, which Kubernetes refuses with a time zone", f'write --cron "{rest}" --time-zone {zone[1]}'
        )
    if text.startswith("@") and text not in SHORT:
        fix = 'write an interval such as --cron "*/30 * * * *"' if text.startswith("@every") else nearest(text, SHORT)
        raise UserError(f"--cron is {text!r}, which is not a schedule", fix)
    if len(fields) != len(FIELDS):
        raise UserError(f"--cron is {text!r}, which has {counted(len(fields), 'field')}, but a schedule has 5", EXAMPLE)
    numbers, wrong = list[list[int]](), list[str]()
    for field, part in zip(FIELDS, fields, strict=True):
        try:
            numbers.append(_numbers(part, *field))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError(f"--cron is {text!r}, where {' and '.join(wrong)}", EXAMPLE)
    minutes, hours, days, months, weekdays = numbers
    schedule = Schedule(minutes, hours, days, months, weekdays, any(_is_every(part) for part in (fields[2], fields[4])))
    if next(schedule.times(datetime.now(UTC)), None) is None:
        raise UserError(
            f"--cron is {text!r}, which is never: month {fields[3]} has no day {fields[2]}", "correct day and month"
        )
    return schedule


def _is_every(field: str) -> bool:
    return any(re.fullmatch(r"[*?](/1)?", part) for part in field.split(","))


def _numbers(field: str, name: str, least: int, most: int, names: dict[str, int]) -> list[int]:
    found = set[int]()
    for part in field.split(","):
        spread, slash, step = part.partition("/")
        begin, dash, end = spread.partition("-")
        if begin in ("*", "?") and not dash:
            numbers = [least, most]
        else:
            numbers = [_number(each, name, least, most, names) for each in ([begin, end] if dash else [begin])]
        first, last = numbers[0], numbers[-1]
        if slash and len(numbers) == 1:
            last = most
        if first > last:
            raise ValueError(f"{name} {part} ends before it begins")
        if slash and not (step.isdecimal() and int(step) > 0):
            raise ValueError(f"{name} {part} has the step {step!r}, which must be a number above 0")
        found |= set(range(first, last + 1, int(step or 1)))
    return sorted(found)


def _number(text: str, name: str, least: int, most: int, names: dict[str, int]) -> int:
    known = names.get(text.lower(), int(text) if text.isdecimal() else -1)
    if not least <= known <= most:
        words = f", or {next(iter(names))} to {list(names)[-1]}" if names else ""
        sunday = "; Sunday is 0 here" if name == "weekday" and text == "7" else ""
        raise ValueError(f"{name} is {text!r}, but must be from {least} to {most}{words}{sunday}".replace("; ", ", and "))
    return known


def zone(name: str) -> tzinfo:
    """A time zone by its name, such as Europe/Berlin.

    Raises:
        UserError: there is none.
    """
    if name not in (known := available_timezones()):
        fix = nearest(name, known) if nearest(name, known).startswith("did") else "use a name such as Europe/Berlin or UTC"
        fix = fix if known else "this machine has no time zones: pip install tzdata"
        raise UserError(f"--time-zone is {name!r}, which is not a time zone", fix)
    return ZoneInfo(name)


def upcoming(text: str, time_zone: str | None, now: datetime | None = None, count: int = 3) -> list[str]:
    """The next times of a schedule, to be shown; without a zone in UTC, which most control planes have.

    Raises:
        UserError: the schedule or the zone is invalid.
    """
    place = zone(time_zone) if time_zone else UTC
    times = parse(text).times(now or datetime.now(place))
    return [f"{time:%a %Y-%m-%d %H:%M} {time_zone or 'UTC'}" for _, time in zip(range(count), times, strict=False)]
