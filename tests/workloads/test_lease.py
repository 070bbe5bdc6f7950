"""The lease of a run: held, refused, taken over, and reported as lost."""

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from heliostat.errors import JobFailed, UserError
from heliostat.folder import Folder
from heliostat.workloads.run import lease
from tests.conftest import wait_for


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW", 0.1)
    monkeypatch.setattr(lease, "EXPIRY", 2.0)


def hold_for_ever(path: str) -> None:
    with lease.hold(Folder.at(path)):
        time.sleep(600)


def held_by_another(path: Path) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=hold_for_ever, args=(str(path),), daemon=True)
    process.start()
    wait_for(lambda: lease.read_lease(Folder.at(path)) is not None, "the lease")
    return process


def elsewhere(path: Path, **changes: Any) -> None:
    """Let the lease look like that of a driver on another machine."""
    found = json.loads((path / lease.LEASE).read_text())
    (path / lease.LEASE).write_text(json.dumps({**found, "host": "far-away", **changes}))


def test_a_running_owner_is_named_and_a_killed_one_is_replaced_at_once(tmp_path: Path) -> None:
    observer = lease.Observer(Folder.at(tmp_path))
    assert not observer.is_driven()
    process = held_by_another(tmp_path)
    try:
        assert observer.is_driven()
        with (
            pytest.raises(UserError, match=rf"process {process.pid} on .* last heartbeat \d+ s ago"),
            lease.hold(Folder.at(tmp_path)),
        ):
            pass
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert not observer.is_driven()
        began = time.monotonic()
        with lease.hold(Folder.at(tmp_path)):
            assert time.monotonic() - began < lease.EXPIRY / 2
    finally:
        process.kill()
        process.join()


@pytest.mark.usefixtures("fast")
def test_a_lease_of_another_machine_expires_without_renewals_whatever_its_clock_says(tmp_path: Path) -> None:
    (tmp_path / lease.LEASE).write_text(
        json.dumps({"id": "x", "host": "far-away", "pid": 1, "started": 0, "user": "u", "since": 9e9, "beat": 3, "time": 9e9})
    )
    began, observer = time.monotonic(), lease.Observer(Folder.at(tmp_path))
    assert observer.is_driven()
    with lease.hold(Folder.at(tmp_path)):
        assert time.monotonic() - began >= lease.EXPIRY


@pytest.mark.usefixtures("fast")
def test_a_lease_of_another_machine_that_is_renewed_is_not_taken_over(tmp_path: Path) -> None:
    with lease.hold(Folder.at(tmp_path)) as mine:
        mine._owner["host"] = "far-away"
        wait_for(lambda: (lease.read_lease(Folder.at(tmp_path)) or {})["host"] == "far-away", "a renewal")
        with pytest.raises(UserError, match=r"has been driven by .* on far-away"), lease.hold(Folder.at(tmp_path)):
            pass


@pytest.mark.usefixtures("fast")
def test_a_driver_that_did_not_renew_reports_that_another_has_taken_over(tmp_path: Path) -> None:
    def drive() -> None:
        with lease.hold(Folder.at(tmp_path)) as mine:
            elsewhere(tmp_path, id="another", host="there", pid=7, user="u")
            wait_for(lambda: mine.lost is not None, "the loss")

    with pytest.raises(JobFailed, match=r"taken over by u's process 7 on there"):
        drive()
    assert (lease.read_lease(Folder.at(tmp_path)) or {})["id"] == "another", "the other's lease stays"


def test_a_truncated_lease_is_ignored(tmp_path: Path) -> None:
    (tmp_path / lease.LEASE).write_text('{"id": "x", "ho')
    with lease.hold(Folder.at(tmp_path)):
        pass
    assert not (tmp_path / lease.LEASE).exists()


def test_of_two_drivers_at_the_same_time_one_gets_the_lease(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[str] = context.Queue()
    processes = [context.Process(target=_try, args=(str(tmp_path), results)) for _ in range(4)]
    for process in processes:
        process.start()
    got = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert got.count("held") <= 1
    assert set(got) <= {"held", "refused"}


def _try(path: str, results: Any) -> None:
    try:
        with lease.hold(Folder.at(path)):
            results.put("held")
            time.sleep(5)
    except UserError:
        results.put("refused")
