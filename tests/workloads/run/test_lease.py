"""The lease of a run: held, refused, taken over, and reported as lost."""

import json
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow import fs

from heliostat.errors import JobFailed, UserError
from heliostat.folder import Folder
from heliostat.workloads.run import claims, lease
from tests.conftest import wait_for
from tests.store import Store


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewed at once; a slow machine must not let it expire."""
    monkeypatch.setattr(lease, "RENEW", 0.1)
    monkeypatch.setattr(lease, "EXPIRY", 600.0)


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
    with claims.Locked(Folder.at(path))._lock():  # else a renewal at this moment could write over it
        found = json.loads((path / lease.LEASE).read_text())
        (path / lease.LEASE).write_text(json.dumps({**found, "host": "far-away", **changes}))


def test_a_run_that_is_refused_before_it_begins_leaves_no_folder(tmp_path: Path) -> None:
    for name, kept in (("new", False), ("there", True)):
        (tmp_path / "there").mkdir(exist_ok=True)
        with pytest.raises(UserError), lease.hold(Folder.at(tmp_path / name)):
            raise UserError("report.by has 'z'", "use one of: x")
        assert (tmp_path / name).exists() == kept
    with lease.hold(Folder.at(tmp_path / "begun")) as owner:
        Folder.at(tmp_path / "begun").write("config.yaml", b"")
    assert (owner.lost, [each.name for each in (tmp_path / "begun").iterdir()]) == (None, ["config.yaml"])


def test_a_driver_that_died_elsewhere_is_not_taken_for_a_live_one_by_who_looks_once(tmp_path: Path) -> None:
    with lease.hold(Folder.at(tmp_path / "held")):
        (tmp_path / lease.LEASE).write_text((tmp_path / "held" / lease.LEASE).read_text())
    for age, alive in ((0.0, True), (3 * lease.EXPIRY, False)):
        elsewhere(tmp_path, time=time.time() - age)
        assert lease.Observer(Folder.at(tmp_path)).is_driven() == alive


def test_a_running_owner_is_named_and_a_killed_one_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        monkeypatch.setattr(lease, "time", SimpleNamespace(**{**vars(time), "sleep": lambda _: pytest.fail("it waits")}))
        with lease.hold(Folder.at(tmp_path)):
            pass
    finally:
        process.kill()
        process.join()


def test_a_lease_of_another_machine_expires_without_renewals_whatever_its_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRY", 2.0)
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


def test_a_driver_that_was_paused_to_its_end_reports_that_another_has_taken_over(tmp_path: Path) -> None:
    """Its lease is renewed every five seconds, and it ends before that."""

    def drive() -> None:
        with lease.hold(Folder.at(tmp_path)):
            elsewhere(tmp_path, id="another", host="there", pid=7, user="u")

    with pytest.raises(JobFailed, match=r"taken over by u's process 7 on there"):
        drive()
    assert (lease.read_lease(Folder.at(tmp_path)) or {})["id"] == "another"


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
    start, over = context.Barrier(4), context.Event()
    processes = [context.Process(target=_try, args=(str(tmp_path), start, over, results)) for _ in range(4)]
    for process in processes:
        process.start()
    got = [results.get(timeout=300) for _ in processes]
    over.set()
    for process in processes:
        process.join()
    assert got.count("held") == 1
    assert set(got) <= {"held", "refused"}


def _try(path: str, start: Any, over: Any, results: Any) -> None:
    start.wait()
    try:
        with lease.hold(Folder.at(path)):
            results.put("held")
            over.wait()  # until all have tried
    except UserError:
        results.put("refused")


class Gated(Store):
    """A client of a store, which is paused before its n-th request."""

    def __init__(self, store: Store, at: int) -> None:
        super().__init__()
        self.objects, self.left = store.objects, at
        self.paused, self.wakes = threading.Event(), threading.Event()

    def _gate(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.paused.set()
            assert self.wakes.wait(120)

    def put(self, path: str, data: bytes) -> None:
        self._gate()
        super().put(path, data)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        self._gate()
        return super().get_file_info_selector(selector)

    def delete_file(self, path: str) -> None:
        self._gate()
        super().delete_file(path)


def driver(name: str) -> claims.Owner:
    return {"id": name, "host": name, "machine": name, "pid": 1, "user": "u", "since": 0.0, "beat": 0, "time": 0.0}


@pytest.fixture(params=["disk", "store"])
def shared_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder.at(tmp_path / "run") if request.param == "disk" else Store().folder()


def test_a_driver_that_wakes_after_a_pause_finds_the_lease_of_the_next_one_and_leaves_it(shared_folder: Folder) -> None:
    place, a, b = claims.place_of(shared_folder), driver("a"), driver("b")
    assert place.take(a, []) is None
    assert place.renew(a) == "ours"
    assert (place.take(b, []) or {})["id"] == "a"
    expired = place.owners()
    a["beat"] += 1
    assert place.renew(a) == "ours"
    assert (place.take(b, expired) or {})["id"] == "a", "it has renewed its lease since"
    assert place.take(b, place.owners()) is None
    assert place.renew(a) == "b"
    assert place.release(a) == "b"
    assert [owner["id"] for owner in claims.owners(shared_folder)] == ["b"]
    assert place.renew(b) == "ours"
    assert place.release(b) == "ours"
    assert claims.owners(shared_folder) == []
    assert place.renew(a) != "ours", "the run that the next one has finished is not continued"


@pytest.mark.parametrize("takes_over", [False, True])
def test_in_an_object_store_a_pause_at_any_request_leaves_at_most_one_driver(
    takes_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither two that start at once, nor one that takes over from another that wakes at that moment."""
    monkeypatch.setattr(claims, "BACKOFF", 0.0)
    for at in range(1, 8):
        store, a, b = Store(), driver("a"), driver("b")
        gated = Gated(store, at)
        slow, fast = claims.place_of(gated.folder()), claims.place_of(store.folder())
        held: list[bool] = []

        def start(slow: claims.Place = slow, a: claims.Owner = a, held: list[bool] = held) -> None:
            held.append(slow.take(a, []) is None)

        thread = threading.Thread(target=start)
        thread.start()
        while thread.is_alive() and not gated.paused.wait(0.01):
            continue
        got = fast.take(b, fast.owners() if takes_over else []) is None
        gated.wakes.set()
        thread.join()
        assert held[0] + got <= 1 or slow.renew(a) == "b", f"paused at request {at}"
        assert not takes_over or got
        if got:
            assert fast.renew(b) == "ours"


@pytest.mark.usefixtures("fast")
def test_a_container_with_the_same_host_name_does_not_take_over_from_a_live_one(tmp_path: Path) -> None:
    with lease.hold(Folder.at(tmp_path)) as mine:
        mine._owner.update(machine="another boot 1", pid=2**22 + 1)
        wait_for(lambda: (lease.read_lease(Folder.at(tmp_path)) or {})["machine"] != lease._machine(), "a renewal")
        with pytest.raises(UserError, match="has been driven by"), lease.hold(Folder.at(tmp_path)):
            pass


def test_a_slow_write_of_a_lease_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, slow, replace = threading.Event(), claims.place_of(Folder.at(tmp_path)), os.replace

    def late(source: str, target: str) -> None:
        began.set()
        time.sleep(0.5)
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    thread = threading.Thread(target=slow.take, args=(driver("a"), []))
    thread.start()
    assert began.wait(120)
    assert (claims.place_of(Folder.at(tmp_path)).take(driver("b"), []) or {})["id"] == "a"
    thread.join()
