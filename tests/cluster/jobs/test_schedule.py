"""Schedules: what Kubernetes would refuse or never start is refused here, and the next times are those of Kubernetes."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from heliostat.cli import main
from heliostat.cluster.schedule import parse, upcoming
from heliostat.errors import UserError

NOW = datetime(2026, 11, 26, 9, 30, tzinfo=UTC)
"""A Thursday."""


def next_times(text: str) -> list[str]:
    return [time.removesuffix(" UTC") for time in upcoming(text, None, NOW)]


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("@daily", ["Fri 2026-11-27 00:00", "Sat 2026-11-28 00:00", "Sun 2026-11-29 00:00"]),
        ("@hourly", ["Thu 2026-11-26 10:00", "Thu 2026-11-26 11:00", "Thu 2026-11-26 12:00"]),
        ("*/20 * * * *", ["Thu 2026-11-26 09:40", "Thu 2026-11-26 10:00", "Thu 2026-11-26 10:20"]),
        ("50/5 9 * * *", ["Thu 2026-11-26 09:50", "Thu 2026-11-26 09:55", "Fri 2026-11-27 09:50"]),
        ("0 2 * * mon-fri", ["Fri 2026-11-27 02:00", "Mon 2026-11-30 02:00", "Tue 2026-12-01 02:00"]),
        ("0 0 1 JAN,jul ?", ["Fri 2027-01-01 00:00", "Thu 2027-07-01 00:00", "Sat 2028-01-01 00:00"]),
        # Either day is enough, unless one of the fields is a star.
        ("0 0 31 2 mon", ["Mon 2027-02-01 00:00", "Mon 2027-02-08 00:00", "Mon 2027-02-15 00:00"]),
        ("0 0 1 * sun", ["Sun 2026-11-29 00:00", "Tue 2026-12-01 00:00", "Sun 2026-12-06 00:00"]),
        ("0 0 29 2 *", ["Tue 2028-02-29 00:00", "Sun 2032-02-29 00:00", "Fri 2036-02-29 00:00"]),
    ],
)
def test_the_next_three_times(text: str, times: list[str]) -> None:
    assert next_times(text) == times


def test_times_are_those_of_the_time_zone_and_a_skipped_hour_has_none() -> None:
    now = datetime(2027, 3, 26, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    assert [time.split()[1] for time in upcoming("30 2 * * *", "Europe/Berlin", now)] == [
        "2027-03-27",
        "2027-03-29",
        "2027-03-30",
    ]


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("0 0 31 2 *", "never: month 2 has no day 31", "correct day and month"),
        ("0 0 31 apr,jun *", "never", "correct day and month"),
        ("0 0 * * 7", "weekday is '7', but must be from 0 to 6, or sun to sat, and Sunday is 0 here", "mon-fri"),
        ("0 0 * * monday", "weekday is 'monday'", "mon-fri"),
        ("0 0 * 0 *", "month is '0', but must be from 1 to 12, or jan to dec", "minute, hour, day, month and weekday"),
        ("61 25 * * *", "minute is '61', but must be from 0 to 59 and hour is '25'", "minute, hour"),
        ("*/0 * * * *", "minute */0 has the step '0'", "minute, hour"),
        ("0 0 * * fri-mon", "weekday fri-mon ends before it begins", "minute, hour"),
        ("0 2 * *", "has 4 fields, but a schedule has 5", "@daily"),
        ("0 0 2 * * *", "has 6 fields", "minute, hour"),
        ("@dayly", "not a schedule", "did you mean @daily?"),
        ("@every 1h", "not a schedule", "*/30 * * * *"),
        ("@reboot", "not a schedule", "use one of"),
        ("CRON_TZ=Asia/Tokyo 0 2 * * *", "refuses with a time zone", 'write --cron "0 2 * * *" --time-zone Asia/Tokyo'),
    ],
)
def test_what_is_no_schedule_is_refused(text: str, what: str, fix: str) -> None:
    with pytest.raises(UserError) as refused:
        parse(text)
    assert what in refused.value.what
    assert fix in refused.value.fix


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--on", "gpu", "--cron", "0 0 31 2 *"], "which is never"),
        (["--on", "gpu", "--cron", "@daily", "--time-zone", "Berlin"], "did you mean Europe/Berlin?"),
        (["--on", "gpu", "--cron", "@daily", "--set", "name=Of_Mine"], "cannot be the name of scheduled runs"),
        (["--on", "local", "--cron", "@daily"], "--cron needs Kubernetes"),
        (["--on", "gpu", "--time-zone", "UTC"], "there is no schedule"),
        (["--time-zone", "UTC"], "--time-zone needs a cluster"),
    ],
)
def test_a_dry_run_refuses_what_the_command_would(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits", "--dry-run", *options]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


def test_a_dry_run_shows_the_next_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "digits", "--on", "gpu", "--dry-run", "--cron", "@daily", "--time-zone", "Asia/Tokyo"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# next times: ")]
    assert line.count("00:00 Asia/Tokyo") == 3
