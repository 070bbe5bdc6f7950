"""Journals on a disk and in an object store, whole, torn, damaged, and of earlier versions."""

import threading
import time
from pathlib import Path

import pytest

from heliostat.folder import Folder
from heliostat.workloads.run.journal import CHUNK, Journal, Tail, read_journal
from tests.conftest import wait_for
from tests.store import Store
from tests.workloads.run.test_checkpoint import fill


def test_a_tail_loses_no_record_to_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliostat.workloads.run.journal.REMOTE_POLL", 0.0)
    store = Store()
    tail = Tail(store.folder(), "j")
    Journal(store.folder(), "j", wait=60).append(step=1)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_read", lambda path: (_ for _ in ()).throw(OSError("the store is away")))
        with pytest.raises(OSError, match="the store is away"):
            tail.new()
    assert [r["step"] for r in tail.new()] == [1]


def test_a_line_that_a_kill_cut_off_is_gone_when_the_next_writer_comes(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    Journal(folder, "j").append(step=1)
    with open(tmp_path / "j", "a") as file:
        file.write('{"time": 1, "st')
    assert [r["step"] for r in read_journal(folder, "j")] == [1]
    Journal(folder, "j").append(step=2)
    assert [r["step"] for r in read_journal(folder, "j")] == [1, 2]


def test_a_tail_sees_each_new_record_once_also_when_the_journal_is_rewound_and_overtakes_it(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    journal = Journal(folder, "j")
    for step in range(1, 6):
        journal.append(step=step, time=100.0 + step)
    tail = Tail(folder, "j")
    assert tail.new() == [], "what was there before is not new"
    now = tail._since
    journal.append(step=6, time=now + 6)
    assert [r["step"] for r in tail.new()] == [6]
    journal.rewind(3)
    for step in range(4, 20):
        journal.append(step=step, time=now + 10 + step)
    assert [r["step"] for r in tail.new()] == list(range(4, 20))
    assert tail.new() == []


def test_numbers_that_json_has_not_become_null(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    Journal(folder, "j").append(step=1, loss=float("nan"))
    assert read_journal(folder, "j")[0]["loss"] is None


def test_a_line_that_is_not_what_was_written_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    journal = Journal(folder, "j")
    for step in (1, 2, 3):
        journal.append(step=step, loss=0.25)
    text = (tmp_path / "j").read_text()
    first, _, third = text.splitlines()
    for damaged in (text.replace("0.25", "0.35", 2).replace("0.35", "0.25", 1), f"{first}\n{first[:-1]}x\n{third}\n"):
        (tmp_path / "j").write_text(damaged)
        assert [r["step"] for r in read_journal(folder, "j")] == [1, 3]
        again = Journal(folder, "j")
        assert (len(again), again.damaged) == (2, 1)


def test_records_wait_for_storage_and_none_is_lost(tmp_path: Path) -> None:
    """A folder in the journal's place makes it impossible to write."""
    folder, delays = Folder.at(tmp_path), list[str]()
    journal = Journal(folder, "j", delays.append)
    journal.append(step=1)
    (tmp_path / "j").rename(tmp_path / "aside")
    (tmp_path / "j").mkdir()
    journal.append(step=2)
    journal.append(step=3)
    assert len(delays) == 1, "reported once"
    (tmp_path / "j").rmdir()
    journal.append(step=4)
    assert [r["step"] for r in read_journal(folder, "j")] == [1, 2, 3, 4]


def steps(folder: Folder, name: str = "j") -> list[int]:
    return [record["step"] for record in read_journal(folder, name)]


def test_a_write_that_was_interrupted_at_any_byte_costs_that_record_and_no_other(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    journal = Journal(folder, "whole")
    for step in (1, 2, 3):
        journal.append(step=step, loss=0.5)
    whole = (tmp_path / "whole").read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in range(1, len(last) + 1):
        (tmp_path / "j").write_bytes(whole[:-cut])
        again = Journal(folder, "j")
        again.append(step=4)
        assert steps(folder) == [1, 2, 4], f"{cut} bytes were missing"
        assert again.damaged == 0, "an interrupted write is no damage"


def test_a_write_that_failed_in_the_middle_is_completed_by_the_next_one(tmp_path: Path, small_disk: Path) -> None:
    folder, delays = Folder.at(small_disk), list[str]()
    journal = Journal(folder, "j", delays.append)
    journal.append(step=1)
    fill(small_disk / "other")
    for step in range(2, 200):
        journal.append(step=step)
    assert len(delays) == 1, "reported once"
    assert len(steps(folder)) < 199
    (small_disk / "other").unlink()
    journal.append(step=200)
    assert steps(folder) == list(range(1, 201))
    assert Journal(folder, "j").damaged == 0


# --- in an object store ---------------------------------------------------------------------------------------


def test_what_4000_records_write_to_an_object_store_is_bounded() -> None:
    store = Store()
    journal = Journal(store.folder(), "metrics.jsonl")
    for step in range(4000):
        journal.append(lazily=True, step=step, loss=0.5)
    journal.flush()
    size = sum(len(data) for data, _ in store.objects.values())
    assert store.written < 3 * size, "records that may wait are written together"
    assert steps(store.folder(), "metrics.jsonl") == list(range(4000))
    assert {"run/metrics.jsonl", "run/metrics.000001.jsonl"} < store.objects.keys()

    store = Store()
    journal = Journal(store.folder(), "metrics.jsonl")
    for step in range(4000):
        journal.append(step=step, loss=0.5)
        journal.flush()
    assert store.written < size * (CHUNK + 1) / 2 * 1.02, "each one by itself costs no more than its file"


def test_a_store_that_does_not_answer_does_not_delay_the_caller() -> None:
    store, delays = Store(), list[str]()
    journals = {"run": Journal(store.folder(), "j", delays.append), "sweep": Journal(store.folder("s"), "j", wait=1.0)}
    store.answers.clear()
    hang = threading.Timer(300.0, store.answers.set)  # an `append` that waits for the store would wait as long
    hang.daemon = True
    hang.start()
    for step in range(1, 2 * CHUNK):
        for journal in journals.values():
            journal.append(step=step)
    assert not store.answers.is_set(), "all were added before the store answered"
    hang.cancel()
    store.answers.set()
    for journal in journals.values():
        journal.flush()
        assert steps(journal.folder) == list(range(1, 2 * CHUNK))


def test_a_record_that_is_waited_for_is_in_the_store_when_append_returns() -> None:
    store = Store()
    journal = Journal(store.folder(), "j", wait=60)
    for step in (1, 2, 3):
        journal.append(step=step)
        assert steps(store.folder())[-1] == step


def test_records_wait_in_order_while_the_store_is_away() -> None:
    store, delays = Store(), list[str]()
    journal = Journal(store.folder(), "j", delays.append)
    for outage in (1, 2):
        store.changes_left = 1  # of the several files, one is still written
        first = len(journal)
        for step in range(first, first + 3 * CHUNK):
            journal.append(step=step)
        for _ in range(2):
            with pytest.raises(OSError, match="the store is away"):
                journal.flush()
        assert len(delays) == outage, "an outage is reported once"
        there = steps(store.folder())
        assert there == list(range(len(there)))
        store.changes_left = None
        journal.flush()
        assert steps(store.folder()) == list(range(first + 3 * CHUNK))


def test_a_store_that_is_too_slow_for_the_end_ends_the_waiting() -> None:
    store = Store()
    journal = Journal(store.folder(), "j")
    store.answers.clear()
    journal.append(step=1)
    assert store.asked.wait(300)  # else the write that hangs may have both records
    with pytest.raises(OSError, match="did not respond"):
        journal.flush(0.1)
    journal.close(0.1)
    store.answers.set()
    journal.append(step=2)
    journal.flush()
    assert 2 not in steps(store.folder()), "after its end nothing is written over another writer's records"


def test_a_write_that_had_begun_before_the_end_and_fails_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    store, failures, found = Store(), [OSError("the store is away")], list[list[int]]()
    journal = Journal(store.folder(), "j")

    def change() -> None:
        if failures:
            for event in (store.asked, store.answers):
                event.clear()
            raise failures.pop()

    def close() -> None:
        journal.close(300.0)
        found.append(steps(store.folder()))  # a process may end now

    monkeypatch.setattr(store, "_change", change)
    store.answers.clear()
    journal.append(step=1)
    assert store.asked.wait(300)
    closing = threading.Thread(target=close)
    closing.start()
    wait_for(lambda: bool(journal._background and journal._background._retry), "end")
    store.answers.set()
    wait_for(lambda: not failures and store.asked.is_set(), "second attempt")
    closing.join(0.2)  # it must not end before that is answered
    store.answers.set()
    closing.join()
    assert found == [[1]]


@pytest.mark.parametrize("changes", [0, 1, 2])
def test_a_rewind_that_is_interrupted_after_any_change_is_completed_by_the_next_one(changes: int) -> None:
    store, kept = Store(), list(range(CHUNK + 6))
    journal = Journal(store.folder(), "j")
    for step in range(3 * CHUNK + 10):
        journal.append(lazily=True, step=step)
    journal.flush()
    store.changes_left = changes
    with pytest.raises(OSError, match="the store is away"):
        journal.rewind(CHUNK + 5)
    left = steps(store.folder())
    assert left == list(range(len(left)))
    assert left[: len(kept)] == kept
    store.changes_left = None
    again = Journal(store.folder(), "j")
    again.rewind(CHUNK + 5)
    again.append(step=1000)
    again.flush()
    assert steps(store.folder()) == [*kept, 1000]
    assert store.objects.keys() == {"run/j", "run/j.000001.jsonl"}


def test_damage_in_an_object_store_is_counted_once_and_then_gone() -> None:
    store = Store()
    journal = Journal(store.folder(), "j")
    for step in range(CHUNK + 2):
        journal.append(lazily=True, step=step)
    journal.flush()
    data, at = store.objects["run/j"]
    store.objects["run/j"] = data.replace(b'"step": 7,', b'"step": 8,'), at
    again = Journal(store.folder(), "j")
    assert (len(again), again.damaged) == (CHUNK + 1, 1)
    assert Journal(store.folder(), "j").damaged == 0


def test_a_tail_in_an_object_store_reads_what_has_changed_and_gives_each_record_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliostat.workloads.run.journal.REMOTE_POLL", 0.0)
    store = Store()
    journal, now = Journal(store.folder(), "j"), time.time() + 1000
    tail = Tail(store.folder(), "j")
    seen = []
    for step in range(1, 3 * CHUNK):
        journal.append(lazily=True, step=step, time=now + step)
        if step % 70 == 0:
            journal.flush()
            seen += [record["step"] for record in tail.new()]
    journal.flush()
    store.reads.clear()
    seen += [record["step"] for record in tail.new()]
    assert seen == list(range(1, 3 * CHUNK))
    assert set(store.reads) == {"run/j.000002.jsonl"}
    assert tail.new() == []
    journal.rewind(10)
    for step in range(11, 15):
        journal.append(step=step, time=now + 1000 + step)
    journal.flush()
    assert [record["step"] for record in tail.new()] == list(range(11, 15))


def test_a_journal_that_was_copied_from_an_object_store_is_continued_and_followed_on_a_disk(tmp_path: Path) -> None:
    store = Store()
    journal = Journal(store.folder(), "j")
    for step in range(CHUNK + 2):
        journal.append(lazily=True, step=step)
    journal.flush()
    for path, (data, _) in store.objects.items():
        (tmp_path / Path(path).name).write_bytes(data)
    folder = Folder.at(tmp_path)
    tail = Tail(folder, "j")
    Journal(folder, "j").append(step=1000, time=time.time() + 60)
    assert [record["step"] for record in tail.new()] == [1000]
    assert steps(folder) == [*range(CHUNK + 2), 1000]
    Journal(folder, "j").rewind(5)
    assert steps(folder) == list(range(6))


# --- as earlier versions wrote them ---------------------------------------------------------------------------

OLD = [b'{"time": 1.5, "kind": "train", "step": %d, "loss": 0.5%s}\n' % (step, crc) for step, crc in (
    (1, b', "crc": 3598368409'), (2, b', "crc": 3339179232'), (3, b""),
)]  # fmt: skip
"""With a checksum, and without as before."""


def test_one_long_file_in_an_object_store_is_read_and_left_as_it_is() -> None:
    store = Store()
    old = b"".join(OLD) + OLD[2] * CHUNK
    store.put("run/metrics.jsonl", old)
    journal = Journal(store.folder(), "metrics.jsonl")
    assert (len(journal), journal.damaged) == (CHUNK + 3, 0)
    journal.append(step=4)
    journal.flush()
    assert steps(store.folder(), "metrics.jsonl") == [1, 2, 3, *[3] * CHUNK, 4]
    assert store.objects["run/metrics.jsonl"][0] == old
    journal.rewind(2)
    assert steps(store.folder(), "metrics.jsonl") == [1, 2]


def test_an_old_file_on_a_disk_is_continued(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(OLD) + OLD[0][:20])
    Journal(Folder.at(tmp_path), "metrics.jsonl").append(step=4)
    assert steps(Folder.at(tmp_path), "metrics.jsonl") == [1, 2, 3, 4]
    assert (tmp_path / "metrics.jsonl").read_bytes().startswith(b"".join(OLD))
